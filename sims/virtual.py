"""Peers of different speeds on a virtual clock: hours of waiting in no time."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from fedcore.coordinator import Arrivals, Sent
from fedcore.errors import QuorumError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task, Trainer


@dataclass
class VirtualLink:
    """A ``fedcore.coordinator.Link`` where ``peer`` needs ``step_s[peer]`` per step."""

    trainer: Trainer
    tasks: Mapping[PeerId, Task]
    step_s: Mapping[PeerId, float]
    clock_s: float = 0.0
    coming: list[tuple[float, PeerId, Update]] = field(default_factory=list)

    def now_s(self) -> float:
        return self.clock_s

    def idle(self) -> Sequence[PeerId]:
        busy = {peer for _, peer, _ in self.coming}
        return [p for p in sorted(self.tasks) if p not in busy]

    def send(self, peer: PeerId, work: Work) -> None:
        self._start(peer, work, self.clock_s)

    def _start(self, peer: PeerId, work: Work, now_s: float) -> None:
        done_s = now_s + work.steps * self.step_s[peer]
        update = self.trainer(self.tasks[peer], work, peer)
        heapq.heappush(self.coming, (done_s, peer, update))

    def receive(self, until_s: float) -> Arrivals:
        if not self.coming and until_s == inf:
            raise QuorumError("nobody is at work and the pacer set no deadline")
        if not self.coming or self.coming[0][0] > until_s:
            self.clock_s = until_s
            return Arrivals()
        self.clock_s, _, update = heapq.heappop(self.coming)
        return Arrivals([update])

    def resume(self, sent: Mapping[PeerId, Sent], now_s: float) -> None:
        self.clock_s = now_s
        for peer, out in sent.items():
            self._start(peer, out.work, out.sent_s)
