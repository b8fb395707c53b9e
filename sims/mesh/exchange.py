"""Events into machines, effects out of them: what ``p2p.driver`` does, simulated.

It keeps the promises of ``p2p.machine`` to a machine, and watches that the machine
keeps its own: fresh tickets, one answer for each question, only ProtocolError raised.
"""

import traceback
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Effect,
    Event,
    Failed,
    HangUp,
    Machine,
    Note,
    Refuse,
    Tell,
    Ticket,
    Told,
    Wake,
    Woken,
)
from sims.mesh.host import Host, Question
from sims.mesh.place import PowerCut

if TYPE_CHECKING:
    from sims.mesh.world import World

INBOX = 4096  # what is told is dropped while so many events wait
OPEN_EACH = 64  # questions of one peer that may wait for their answers
BUSIEST = 20_000  # steps of one host in a second; more is a machine that spins
OVERHEAD_BYTES = 100  # of a message, on the wire
Do = Callable[[Machine, float], Sequence[Effect]]


class Exchange:
    """Feeds the machines of a world and carries out what they want."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def post(self, host: Host, event: Event) -> None:
        """Let the machine of ``host`` know of ``event``, after what waits already."""
        if not host.up or (isinstance(event, Told) and len(host.inbox) >= INBOX):
            return
        host.inbox.append(event)
        self._turn_soon(host)

    def resume(self, host: Host) -> None:
        """Let a host that was paused take what waits for it now."""
        host.turn += 1
        host.turning = False
        self._turn_soon(host)

    def _turn_soon(self, host: Host) -> None:
        if host.turning or not host.inbox:
            return
        host.turning = True
        host.turn += 1
        turn = host.turn
        self.world.at(host.busy_s, lambda: self._turn(host, turn))

    def _turn(self, host: Host, turn: int) -> None:
        if not host.up or host.turn != turn:
            return
        host.turning = False
        if host.busy_s <= self.world.now_s:
            self._take(host, host.inbox.popleft())
        self._turn_soon(host)

    def _take(self, host: Host, event: Event) -> None:
        world = self.world
        world.trace.add(world.now_s, host.name, self._words(event), _body(event))
        ends = isinstance(event, Answered | Failed)
        if ends and host.asking.pop(getattr(event, "ticket", -1), None) is None:
            return  # a second answer, or one that came too late
        self.do(host, lambda machine, now_s: machine.step(now_s, event), event)

    def do(self, host: Host, act: Do, event: Event | None = None) -> bool:
        """Let the machine of ``host`` act, and carry out its effects.

        Returns:
            Whether it returned: false if the power went before.
        """
        world, machine = self.world, host.machine
        if machine is None:
            return False
        host.steps += 1
        world.steps += 1
        if host.steps > BUSIEST:
            world.violate(f"spins: more than {BUSIEST} steps in a second", host)
        try:
            with host.disk.fuse:
                effects = act(machine, host.clock.read(world.now_s))
        except PowerCut:
            world.power_cut(host)
            return False
        except ProtocolError as error:
            self._refused(host, event, str(error))
            return True
        except Exception:  # noqa: BLE001 - whatever a machine raises is the finding
            world.violate(f"raised\n{traceback.format_exc()}", host)
            return False
        host.busy_s = max(host.busy_s, world.now_s + host.service_s)
        self._carry_out(host, effects)
        world.after_step(host)
        return True

    def _refused(self, host: Host, event: Event | None, why: str) -> None:
        self.world.trace.count("refused")
        self.world.trace.add(self.world.now_s, host.name, f"refuses {why}")
        if isinstance(event, Asked):
            self._carry_out(host, [Refuse(event.ticket, why)])
        elif not isinstance(event, Told | Answered):
            self.world.violate(f"raised ProtocolError without a cause: {why}", host)

    def _carry_out(self, host: Host, effects: Sequence[Effect]) -> None:
        left = host.cut_effects
        for effect in effects if left is None else effects[:left]:
            self._carry(host, effect)
        if left is not None and effects:
            self.world.trace.count("effects cut short")
            self.world.power_cut(host)

    def _carry(self, host: Host, effect: Effect) -> None:
        match effect:
            case Tell():
                self._tell(host, effect)
            case Ask():
                self._ask(host, effect)
            case Answer() | Refuse():
                self._answer(host, effect)
            case Wake():
                self._wake(host, effect.at_s)
            case HangUp():
                self.world.wires.leave(host, effect.peer, effect.why or "hung up")
                self.world.channels.leave(host, effect.peer, effect.why or "hung up")
            case Note():
                text = f"notes {effect.kind}: {effect.words}"
                self.world.trace.add(self.world.now_s, host.name, text)
                self.world.trace.count(f"note {effect.kind}")
                self.world.noted(host, effect)
            case _:
                self.world.carry_out(host, effect)

    def _wake(self, host: Host, at_s: float) -> None:
        host.alarm += 1
        alarm, boot = host.alarm, host.boots
        if at_s == inf:
            return

        def ring() -> None:
            if host.alarm == alarm and host.boots == boot:
                self.post(host, Woken())

        self.world.at(host.clock.when(at_s), ring)

    def _tell(self, host: Host, tell: Tell) -> None:
        event = Told(host.peer, tell.topic, tell.body)
        self.world.send(
            host, tell.peer, _size(tell.body), lambda other: self.post(other, event)
        )

    def _ask(self, host: Host, ask: Ask) -> None:
        if ask.ticket in host.used:
            self.world.violate(f"asks again with the ticket {ask.ticket}", host)
        host.used.add(ask.ticket)
        host.asking[ask.ticket] = ask
        boot = host.boots

        def arrive(other: Host) -> None:
            self._asked(other, Question(host, boot, ask.ticket, self.world.now_s), ask)

        def late() -> None:
            self._fail(host, boot, ask.ticket, "no answer in time")

        if self.world.dials:
            self.world.dialling.at_once(host, ask.peer)
        size_bytes = _size(ask.body)
        sent = self.world.send(host, ask.peer, size_bytes, arrive, once=True)
        if sent:
            self.world.later(ask.timeout_s / host.clock.rate, late)
        else:
            failed = Failed(ask.peer, ask.ticket, lost=True, why="not connected")
            self.post(host, failed)

    def _fail(self, host: Host, boot: int, ticket: Ticket, why: str) -> None:
        if host.boots == boot and host.up and ticket in host.asking:
            peer = host.asking[ticket].peer
            self.post(host, Failed(peer, ticket, lost=True, why=why))

    def lose(self, host: Host, peer: PeerId, why: str) -> None:
        """Fail what ``host`` asks ``peer``: their connection is gone."""
        for ticket, ask in list(host.asking.items()):
            if ask.peer == peer:
                self._fail(host, host.boots, ticket, why or "the connection broke")

    def _asked(self, host: Host, question: Question, ask: Ask) -> None:
        if host.asked_by[question.host.peer] >= OPEN_EACH:
            busy = "your questions wait for answers already"
            self._reply(host, question, Refuse(ask.ticket, busy), lost=True)
            return
        ticket = host.next_ticket
        host.next_ticket += 1
        host.asked[ticket] = question
        host.asked_by[question.host.peer] += 1
        self.post(host, Asked(question.host.peer, ask.topic, ask.body, ticket))

    def _answer(self, host: Host, effect: Answer | Refuse) -> None:
        question = host.asked.pop(effect.ticket, None)
        if question is None:
            self.world.violate(f"answers {effect.ticket}, which waits for none", host)
            return
        host.asked_by[question.host.peer] -= 1
        self._reply(host, question, effect)

    def _reply(
        self,
        host: Host,
        question: Question,
        effect: Answer | Refuse,
        *,
        lost: bool = False,
    ) -> None:
        event: Event
        if isinstance(effect, Answer):
            event = Answered(host.peer, question.ticket, effect.body)
        else:
            event = Failed(host.peer, question.ticket, lost=lost, why=effect.why)

        def arrive(other: Host) -> None:
            if other is question.host and other.boots == question.boot:
                self.post(other, event)

        size_bytes = _size(_body(event))
        self.world.send(host, question.host.peer, size_bytes, arrive, once=True)

    def _words(self, event: Event) -> str:
        words = type(event).__name__.lower()
        peer = self.world.name(getattr(event, "peer", None))
        words += f" {peer}" if peer != "?" else ""
        for name in ("topic", "why"):
            detail = getattr(event, name, "")
            words += f" {detail}" if detail else ""
        ticket = getattr(event, "ticket", None)
        return words if ticket is None else f"{words} #{ticket}"


def _body(event: Event) -> bytes:
    return getattr(event, "body", b"")


def _size(body: bytes) -> int:
    return len(body) + OVERHEAD_BYTES
