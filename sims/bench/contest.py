"""Several engines do the same work, taking turns, and are timed by their own clocks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.closing import Closing
from sims.bench.case import Case
from sims.bench.frame import Options, middle
from sims.bench.process import MissingError, Peer, Process

PATIENCE_S = 300.0
QUICK_PATIENCE_S = 45.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one engine did with one case.

    Attributes:
        round_ms: median milliseconds of a round.
        accuracy: on the held-out rows, after as many rounds as the others; None
            where nothing is learned.
        memory_bytes: of its process tree; shared pages count once.
    """

    round_ms: float
    accuracy: float | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Turns:
    """How often the engines take turns, after one round each to warm up.

    Attributes:
        blocks: turns of each engine.
        rounds: of one turn.
    """

    blocks: int
    rounds: int


@dataclass
class Contest(Closing):
    """Engines in processes of their own, alive from case to case.

    Attributes:
        options: of the benchmark.
        folder: for data, weights and logs.
        absent: why an engine does not take part, by name.
        versions: of the packages that take part.
    """

    options: Options
    folder: str
    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    _running: dict[str, Process] = field(default_factory=dict)

    def start(self, peers: Sequence[Peer]) -> None:
        """Start the processes of ``peers``; they load side by side."""
        for peer in peers:
            try:
                process = Process(peer, self.options.pythons, self.folder)
            except MissingError as reason:
                self.absent[peer.name] = str(reason)
            else:
                self._running[peer.name] = process

    def run(
        self, case: Case, names: Iterable[str], turns: Turns
    ) -> Mapping[str, Result]:
        """Have the engines ``names`` train ``case``.

        Returns:
            The results of those that did; ``absent`` says what became of the others.
        """
        self.options.say(f"{case.name}: {case.work}")
        patience_s = QUICK_PATIENCE_S if self.options.quick else PATIENCE_S
        seconds = {name: list[float]() for name in names}
        results: dict[str, Result] = {}

        def opened(process: Process) -> None:
            process.opened(patience_s)
            self.versions.update(process.versions)

        def warm(process: Process) -> None:
            process.rounds(case, 1, patience_s)

        def turn(process: Process) -> None:
            took = process.rounds(case, turns.rounds, patience_s)
            seconds[process.peer.name] += took

        def finish(process: Process) -> None:
            name = process.peer.name
            results[name] = self._result(process, case, seconds[name])

        self._each(seconds, lambda process: process.ask_open(case))
        for act in (opened, warm, *[turn] * turns.blocks, finish):
            self._each(seconds, act)
        return results

    def _each(self, names: Iterable[str], act: Callable[[Process], None]) -> None:
        """Do ``act`` with each engine; one that fails is out for good."""
        for name in names:
            process = self._running.get(name)
            if process is None:
                continue
            try:
                act(process)
            except MissingError as reason:
                self.absent[name] = str(reason)
                self._running.pop(name).close()

    def _result(self, process: Process, case: Case, seconds: list[float]) -> Result:
        accuracy = None
        if case.model != "none":
            from sims.bench import judge

            path = Path(self.folder) / "weights.npz"
            accuracy = judge.accuracy(case, process.weights(case, path, PATIENCE_S))
        return Result(1e3 * middle(seconds), accuracy, process.memory_bytes())

    def close(self) -> None:
        for process in self._running.values():
            process.dismiss()
        for process in self._running.values():
            process.close()
