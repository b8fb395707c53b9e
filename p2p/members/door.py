"""The door: two peers that meet prove to each other that they belong.

The one with the smaller id begins; if it does not, the other does after a moment.
Until a peer is admitted it may use nothing but ``/hello/1``, and learns nothing from it
unless it knows the network's id. See ``p2p.members.hello`` for what is said.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.identity.network import check_network
from p2p.identity.openings import Opening, check_opening
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Failed,
    Refuse,
    Told,
    Up,
    Wake,
)
from p2p.members.attempts import Attempts
from p2p.members.boots import Boots, twin_note
from p2p.members.effects import Admitted
from p2p.members.hello import (
    ANSWER,
    BOOT_BYTES,
    CHALLENGE_BYTES,
    PROOF,
    WELCOME,
    Hello,
    Meeting,
    Preamble,
    Proof,
    read_hello,
)
from p2p.members.judging import Policy, TurnedAwayError, judged, refusal, turned_away

TOPIC = "/hello/1"
PATIENCE_S = 3.0  # the one with the larger id waits so long for the other to begin
TIMEOUT_S = 10.0
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
REFUSED_RETRY_S = 300.0  # people may have set a clock or updated a program
MEETING_S = 60.0  # a challenge is forgotten after so long
MAX_TALKS = 4096
NEVER_S = float("inf")


@dataclass(slots=True)
class _Talk:
    """What we are saying to one peer.

    Attributes:
        due_s: when to begin, or to try again.
        tries: how often it has failed in a row.
        challenge: ours.
        ticket: of our question, if one is open.
        proved: who the peer proved to be, while we prove who we are.
    """

    due_s: float
    tries: int = 0
    challenge: bytes = b""
    ticket: int | None = None
    proved: Admitted | None = None


@dataclass
class Door:
    """The machine of ``/hello/1``.

    Args:
        key: ours.
        network: the network's id.
        opening: our opening.
        policy: who is welcome.
        rng: for challenges; ``random.SystemRandom()`` except in simulations.
        wall: seconds since 1970; it may be wrong and may jump.
        program: this program's version.
    """

    key: Key
    network: str
    opening: bytes
    policy: Policy
    rng: random.Random
    wall: Callable[[], float]
    program: str
    boot: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._talks: dict[PeerId, _Talk] = {}
        self._asked: dict[PeerId, tuple[float, bytes, bytes]] = {}
        self._members: dict[PeerId, Admitted] = {}
        self._boots, self._attempts, self._tickets = Boots(), Attempts(), 0
        check_network(self.network)
        if check_opening(self.opening, self.network).peer != self.key.peer:
            raise ProtocolError("this opening belongs to another key")
        self.boot = self.rng.randbytes(BOOT_BYTES)

    @property
    def topics(self) -> Collection[str]:
        return (TOPIC,)

    def members(self) -> Mapping[PeerId, Opening]:
        """Return who is admitted and up now, with what it proved."""
        return {peer: one.opening for peer, one in self._members.items()}

    def admits(self, peer: PeerId) -> bool:
        """Return whether ``peer`` is admitted and up now."""
        return peer in self._members

    def review(self) -> Sequence[Effect]:
        """Turn away those whom the policy no longer admits; after each change of it."""
        out: list[Effect] = []
        for peer, one in list(self._members.items()):
            why = self.policy.banned(one.opening)
            if why is not None:
                del self._members[peer]
                out.append(turned_away(peer, "removed", why))
        return out

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Take ``event``; see ``Machine``."""
        out: Sequence[Effect] = ()
        match event:
            case Up():
                self._meet(now_s, event.peer)
            case Down():
                self._part(event.peer)
            case Asked():
                out = self._answered(now_s, event)
            case Answered() | Failed():
                out = self._heard(now_s, event)
            case Told():
                raise ProtocolError(f"{event.peer} tells at the door, where one asks")
            case _:
                pass
        return [*out, *self._begun(now_s)]

    def _meet(self, now_s: float, peer: PeerId) -> None:
        if peer == self.key.peer or peer in self._talks:
            return
        if len(self._talks) >= MAX_TALKS:
            raise ProtocolError(f"{peer} has no place: {MAX_TALKS} peers are here")
        first = self.key.peer < peer
        self._talks[peer] = _Talk(now_s if first else now_s + PATIENCE_S)

    def _part(self, peer: PeerId) -> None:
        self._talks.pop(peer, None)
        self._asked.pop(peer, None)
        self._members.pop(peer, None)

    def _begun(self, now_s: float) -> list[Effect]:
        """Say hello to all whose time has come, and set the alarm for the others."""
        due = [peer for peer, talk in self._talks.items() if talk.due_s <= now_s]
        out = [self._hello(peer, self._talks[peer]) for peer in due]
        next_s = min((talk.due_s for talk in self._talks.values()), default=NEVER_S)
        return [*out, Wake(next_s)] if next_s < NEVER_S else out

    def _hello(self, peer: PeerId, talk: _Talk) -> Effect:
        talk.challenge = self.rng.randbytes(CHALLENGE_BYTES)
        badge = self._meeting(self.key.peer, peer, talk.challenge).badge()
        hello = Hello(Preamble(self.program), badge, talk.challenge)
        return self._ask(peer, talk, hello.encode())

    def _ask(self, peer: PeerId, talk: _Talk, body: bytes) -> Effect:
        self._tickets += 1
        talk.ticket, talk.due_s = self._tickets, NEVER_S
        return Ask(peer, TOPIC, body, self._tickets, TIMEOUT_S)

    def _meeting(self, speaker: PeerId, listener: PeerId, challenge: bytes) -> Meeting:
        return Meeting(self.network, speaker, listener, challenge)

    def _proof(self, peer: PeerId, kind: int, mine: bytes, theirs: bytes) -> bytes:
        clock_s = max(0, int(self.wall()))
        preamble = Preamble(self.program)
        proof = Proof(preamble, kind, mine, self.boot, clock_s, self.opening)
        return self._meeting(self.key.peer, peer, theirs).signed(self.key, proof)

    # ---- they began -------------------------------------------------------------

    def _answered(self, now_s: float, event: Asked) -> list[Effect]:
        if self._attempts.take(event.peer, now_s):
            return [Refuse(event.ticket, "too many attempts; wait a minute")]
        if event.peer == self.key.peer:
            note = twin_note(event.peer)
            return [note, Refuse(event.ticket, note.words)]
        try:
            return self._reply(now_s, event)
        except ProtocolError as error:
            self._unwelcome(now_s, event.peer, error)
            note = refusal(event.peer, error)
            return [note, Refuse(event.ticket, note.words)]

    def _reply(self, now_s: float, event: Asked) -> list[Effect]:
        message, peer = read_hello(event.body), event.peer
        if isinstance(message, Hello):
            meeting = self._meeting(peer, self.key.peer, message.challenge)
            if message.badge != meeting.badge():
                raise TurnedAwayError("network", "here is another network")
            mine = self.rng.randbytes(CHALLENGE_BYTES)
            self._remember(now_s, peer, message.challenge, mine)
            body = self._proof(peer, ANSWER, mine, message.challenge)
            return [Answer(event.ticket, body)]
        asked_s, theirs, mine = self._asked.pop(peer, (-NEVER_S, b"", b""))
        late = now_s > asked_s + MEETING_S
        if late or message.kind != PROOF or message.challenge != theirs:
            return [Refuse(event.ticket, "nobody asked for this proof; begin again")]
        admitted = self._judged(peer, message, mine)
        return [Answer(event.ticket, WELCOME), *self._admit(peer, admitted)]

    def _remember(self, now_s: float, peer: PeerId, theirs: bytes, mine: bytes) -> None:
        if len(self._asked) >= MAX_TALKS and peer not in self._asked:
            self._asked.pop(next(iter(self._asked)))
        self._asked[peer] = (now_s, theirs, mine)

    # ---- we began ---------------------------------------------------------------

    def _heard(self, now_s: float, event: Answered | Failed) -> list[Effect]:
        talk = self._talks.get(event.peer)
        if talk is None or talk.ticket != event.ticket:
            return []
        talk.ticket = None
        if isinstance(event, Failed):
            return self._failed(now_s, talk, event)
        try:
            return self._went_on(talk, event)
        except ProtocolError as error:
            talk.proved = None
            self._unwelcome(now_s, event.peer, error)
            return [refusal(event.peer, error)]

    def _failed(self, now_s: float, talk: _Talk, event: Failed) -> list[Effect]:
        talk.proved = None
        if event.lost:
            talk.tries += 1
            talk.due_s = now_s + min(
                FIRST_RETRY_S * 2 ** min(talk.tries, 9), LAST_RETRY_S
            )
            return []
        talk.due_s = now_s + REFUSED_RETRY_S
        self._members.pop(event.peer, None)
        return [turned_away(event.peer, "refused us", f"it refused us: {event.why}")]

    def _went_on(self, talk: _Talk, event: Answered) -> list[Effect]:
        peer = event.peer
        if talk.proved is not None:
            if event.body != WELCOME:
                raise ProtocolError(f"{peer} does not say welcome as one does")
            admitted, talk.proved, talk.tries = talk.proved, None, 0
            return self._admit(peer, admitted)
        message = read_hello(event.body)
        if isinstance(message, Hello) or message.kind != ANSWER:
            raise ProtocolError(f"{peer} answers with another kind of message")
        talk.proved = self._judged(peer, message, talk.challenge)
        body = self._proof(peer, PROOF, talk.challenge, message.challenge)
        return [self._ask(peer, talk, body)]

    # ---- both -------------------------------------------------------------------

    def _unwelcome(self, now_s: float, peer: PeerId, error: ProtocolError) -> None:
        if isinstance(error, TurnedAwayError):
            self._members.pop(peer, None)
        talk = self._talks.get(peer)
        if talk and talk.ticket is None:
            talk.due_s = now_s + REFUSED_RETRY_S

    def _judged(self, peer: PeerId, proof: Proof, challenge: bytes) -> Admitted:
        meeting = self._meeting(peer, self.key.peer, challenge)
        return judged(self.policy, meeting, proof, self.wall())

    def _admit(self, peer: PeerId, admitted: Admitted) -> list[Effect]:
        talk = self._talks.get(peer)
        if talk is None:
            return []  # it went away meanwhile, or has not quite come
        if talk.ticket is None:
            talk.due_s = NEVER_S
        before, self._members[peer] = self._members.get(peer), admitted
        out: list[Effect] = []
        if self._boots.hear(peer, admitted.boot):
            out.append(twin_note(peer))
        if before is None or _told(before) != _told(admitted):
            out.append(admitted)
        return out


def _told(admitted: Admitted) -> tuple[Opening, bytes]:
    return admitted.opening, admitted.boot
