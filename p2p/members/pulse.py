"""Who is alive and where: gossip about cards and beats, in a few messages a second.

Each second a node tells a few random peers what it heard lately, so news reaches all of
n members in about log n seconds. Who is silent too long is asked directly, and is gone
if that fails too. Nothing of this is kept; see ``p2p.members.card`` for what is said.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Effect,
    Event,
    Failed,
    Note,
    Tell,
    Told,
    Up,
    Wake,
)
from p2p.members.attempts import Attempts
from p2p.members.boots import Boots, twin_note
from p2p.members.card import About, Card
from p2p.members.gossip import MAX_WANTED, Gossip, Word, read_gossip
from p2p.members.news import FANOUT, TICK_S, News
from p2p.members.own import Own
from p2p.members.roster import Entry, Roster

TOPIC = "/pulse/1"
PROBE_S = 5.0
MAX_PROBES = 16  # at the same time
MAX_GREETING = 2000  # beats told to a peer that comes up; 26 bytes each


def beat_s(members: int) -> float:
    """Return how long a member waits between two beats, in seconds."""
    return min(6.0, max(2.0, members / 50))


def silence_s(members: int) -> float:
    """Return after how long a silence a member becomes suspect, 15 to 30 s."""
    return min(30.0, max(15.0, 5 * beat_s(members)))


@dataclass
class Pulse:
    """The machine of ``/pulse/1``. Give it ``Up`` only of peers that are admitted.

    Args:
        key: ours.
        about: what we say about ourselves; change it with ``say``.
        member: whether a peer is a member, now.
        rng: for choices and nonces; ``random.SystemRandom()`` except in simulations.
    """

    key: Key
    about: About
    member: Callable[[PeerId], bool]
    rng: random.Random

    def __post_init__(self) -> None:
        self._own = Own(self.key, self.about, self.rng)
        self._roster, self._news, self._boots = Roster(), News(), Boots(returns=3)
        self._spoke = Boots()
        self._renewals = Attempts(most=12, window_s=60.0)
        self._up: dict[PeerId, None] = {}  # a set with an order, for reproducibility
        self._probes: dict[int, PeerId] = {}
        self._tickets = 0
        self._beat_due_s = self._tick_due_s = 0.0
        self._news.card(self.key.peer)

    @property
    def topics(self) -> Collection[str]:
        return (TOPIC,)

    def alive(self, now_s: float) -> Sequence[PeerId]:
        """Return the other members of whom we heard lately, sorted."""
        limit_s = silence_s(self._count())
        rows = self._roster.entries.items()
        return sorted(p for p, e in rows if now_s - e.heard_s <= limit_s)

    def record(self, peer: PeerId) -> Card | None:
        """Return the newest card of ``peer``, alive or not; None if unknown."""
        entry = self._roster.entries.get(peer)
        return entry.card if entry else None

    def silent_s(self, peer: PeerId, now_s: float) -> float | None:
        """Return for how long we heard nothing of ``peer``; None if we never did."""
        entry = self._roster.entries.get(peer)
        return now_s - entry.heard_s if entry else None

    def addresses(self, peer: PeerId) -> Sequence[str]:
        """Return where ``peer`` says it can be reached."""
        card = self.record(peer)
        return card.about.addresses if card else ()

    def say(self, about: About) -> None:
        """Say ``about`` from now on; others hear it within seconds.

        Raises:
            ProtocolError: others would refuse it.
        """
        self._own.say(about)
        self.about = about

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        """Take ``event``; see ``Machine``."""
        out: Sequence[Effect] = ()
        match event:
            case Up() if event.peer != self.key.peer:
                self._up[event.peer] = None
                out = [Tell(event.peer, TOPIC, self._greeting())]
            case Down():
                self._up.pop(event.peer, None)
            case Told():
                out = self._told(now_s, event.peer, event.body)
            case Asked():
                out = self._asked(now_s, event)
            case Answered():
                out = self._answered(now_s, event)
            case Failed():
                out = self._silent(event)
            case _:
                pass
        if now_s >= self._tick_due_s:
            out = [*out, *self._tick(now_s)]
            self._tick_due_s = now_s + TICK_S
        return [*out, Wake(self._tick_due_s)]

    # ---- what others say --------------------------------------------------------

    def _told(self, now_s: float, peer: PeerId, body: bytes) -> list[Effect]:
        gossip = read_gossip(body)
        self._roster.check(gossip)
        twins = self._spoke.told(peer, (card for card, _ in gossip.words), now_s)
        out, stale = self._take(now_s, gossip)
        out += [*twins, *self._seen(now_s, peer)]
        unknown = [b.card for b in gossip.beats if b.card not in self._roster.by_id]
        wanted = [b for b in dict.fromkeys(unknown) if b != self._own.id][:MAX_WANTED]
        found = [self._word_of(i) for i in gossip.wanted]
        reply = self._news.reply(peer, [*stale, *found], wanted)
        return [*out, Tell(peer, TOPIC, reply.encode())] if reply else out

    def _take(self, now_s: float, gossip: Gossip) -> tuple[list[Effect], list[Word]]:
        """Take all news; return the effects, and what we know better."""
        out: list[Effect] = []
        stale: list[Word] = []
        for word in gossip.words:
            peer = word[0].peer
            if peer == self.key.peer:
                out += self._told_of_us(now_s, word[0])
            elif not self.member(peer):
                continue
            elif self._roster.is_news(word):
                out += self._put(now_s, word)
            elif self._roster.is_stale(word):
                stale.append(self._roster.entries[peer].word)
        beats = [*gossip.beats, *(beat for _, beat in gossip.words)]
        for beat in beats:
            entry = self._roster.hear(beat, now_s)
            if entry:
                self._news.beat(entry.card.peer)
                out += _back(entry)
        return out, stale

    def _put(self, now_s: float, word: Word) -> list[Effect]:
        peer = word[0].peer
        if self._renewals.take(peer, now_s):
            return []  # one that floods; what it says last gets through in a minute
        before = self._roster.entries.get(peer)
        entry = self._roster.put(word, now_s)
        if entry is None:
            return []
        self._news.card(peer)
        out: list[Effect] = []
        if self._boots.hear(peer, entry.card.boot):
            out.append(twin_note(peer))
        if before is None or before.state == "gone":
            out.append(Note("alive", f"{peer} is alive", peer))
        return out

    def _told_of_us(self, now_s: float, card: Card) -> list[Effect]:
        """Overrule what an earlier start of ours, or a twin, says in our name."""
        if card.boot == self._own.boot or card.counter < self._own.card.counter:
            return []
        twin = self._boots.hear(self.key.peer, card.boot)
        self._boots.hear(self.key.peer, self._own.boot)
        if not self._renewals.take(self.key.peer, now_s):
            self._own.renew(card.counter + 1)
            self._news.card(self.key.peer)
        return [twin_note(self.key.peer)] if twin else []

    def _seen(self, now_s: float, peer: PeerId) -> list[Effect]:
        """Note that ``peer`` itself has spoken."""
        entry = self._roster.entries.get(peer)
        if entry is None:
            return []
        entry.heard_s = now_s
        return _back(entry)

    def _asked(self, now_s: float, event: Asked) -> list[Effect]:
        if event.body:
            raise ProtocolError(f"{event.peer} asks for more than a sign of life")
        answer = Answer(event.ticket, Gossip((self._own.word(),)).encode())
        return [answer, *self._seen(now_s, event.peer)]

    def _answered(self, now_s: float, event: Answered) -> list[Effect]:
        if self._probes.pop(event.ticket, None) != event.peer:
            return []
        gossip = read_gossip(event.body)
        self._roster.check(gossip)
        return [*self._take(now_s, gossip)[0], *self._seen(now_s, event.peer)]

    def _silent(self, event: Failed) -> list[Effect]:
        peer = self._probes.pop(event.ticket, None)
        entry = self._roster.entries.get(peer) if peer else None
        if peer is None or entry is None or entry.state != "suspect":
            return []
        return _lost(peer, entry)

    # ---- what we say ------------------------------------------------------------

    def _tick(self, now_s: float) -> list[Effect]:
        self._roster.forget(self.member)
        out = self._watch(now_s)
        self._beat(now_s)
        gossip = self._news.gossip(self._latest) if self._up else None
        if gossip is None:
            return out
        body = gossip.encode()
        targets = self.rng.sample([*self._up], min(FANOUT, len(self._up)))
        return [*out, *(Tell(peer, TOPIC, body) for peer in targets)]

    def _watch(self, now_s: float) -> list[Effect]:
        """Ask those of whom we heard nothing for too long."""
        limit_s = silence_s(self._count())
        out: list[Effect] = []
        for peer, entry in self._roster.present():
            quiet_s = now_s - entry.heard_s
            if quiet_s > 2 * limit_s:
                out += _lost(peer, entry)
            elif (
                quiet_s > limit_s
                and entry.state == "alive"
                and len(self._probes) < MAX_PROBES
            ):
                entry.state = "suspect"
                self._tickets += 1
                self._probes[self._tickets] = peer
                out.append(Ask(peer, TOPIC, b"", self._tickets, PROBE_S))
        return out

    def _beat(self, now_s: float) -> None:
        if now_s < self._beat_due_s and self._own.card.about == self.about:
            return
        if self._own.beat(now_s):
            self._news.card(self.key.peer)
        self._news.beat(self.key.peer)
        self._beat_due_s = now_s + beat_s(self._count())

    def _latest(self, peer: PeerId) -> Word | None:
        if peer == self.key.peer:
            return self._own.word()
        entry = self._roster.entries.get(peer)
        return entry.word if entry else None

    def _word_of(self, card: bytes) -> Word | None:
        if card == self._own.id:
            return self._own.word()
        entry = self._roster.by_id.get(card)
        return entry.word if entry else None

    def _greeting(self) -> bytes:
        beats = [entry.beat for _, entry in self._roster.present()]
        some = self.rng.sample(beats, min(len(beats), MAX_GREETING))
        return Gossip((self._own.word(),), tuple(some)).encode()

    def _count(self) -> int:
        return len(self._roster.entries) + 1


def _back(entry: Entry) -> list[Effect]:
    """Return what to say about one that has just given a sign of life."""
    before, entry.state = entry.state, "alive"
    peer = entry.card.peer
    return [Note("alive", f"{peer} is alive again", peer)] if before == "gone" else []


def _lost(peer: PeerId, entry: Entry) -> list[Effect]:
    entry.state = "gone"
    return [Note("gone", f"{peer} gives no sign of life", peer)]
