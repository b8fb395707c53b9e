"""A peer's replica of the shared state: what everybody wrote, told on to everybody.

Every ``period_s`` a replica tells a peer, drawn at random, how far it knows every
writer; that one answers with what is lacking, and asks back for what it lacks itself.
What we write ourselves is told to a few peers at once. Answers are at most 256 KiB, and
what is left is asked for until both are level; see ``p2p.state.talks``.

A fork proves itself; it stays even if the message that brought it is refused.
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from fedcore.errors import ConfigError, ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.identity.openings import check_opening
from p2p.machine import (
    Answer,
    Answered,
    Asked,
    Down,
    Effect,
    Event,
    Failed,
    Note,
    Refuse,
    Tell,
    Ticket,
    Told,
    Up,
    Wake,
    Woken,
)
from p2p.state.author import Author
from p2p.state.chain import Entry, Kind
from p2p.state.checking import Doubt, Gap, check
from p2p.state.exchange import NEWS_BYTES, reply_to, segment_of, size_of, sync_of
from p2p.state.facts import Models
from p2p.state.fold import Fold, View
from p2p.state.held import News as Added
from p2p.state.logs import Logs
from p2p.state.messages import (
    Links,
    Message,
    News,
    Prove,
    Pull,
    Sync,
    Trace,
    decode,
    encode,
)
from p2p.state.search import Search
from p2p.state.segments import Branch, Fork
from p2p.state.store import LogStore
from p2p.state.talks import TOPIC, Habits, Question, Talks

SEARCHES = 16  # for forks, at a time


class Replica:
    """One peer's replica of one network's state. A ``p2p.machine.Machine``."""

    def __init__(
        self,
        key: Key,
        network: str,
        opening: bytes,
        store: LogStore,
        rng: random.Random,
        wall: Callable[[], float],
        habits: Habits | None = None,
    ) -> None:
        """Take up what is in ``store``.

        Args:
            key: of the peer.
            network: its id.
            opening: of the peer's own first log.
            store: what was written so far.
            rng: draws whom to talk to, and when.
            wall: seconds since 1970.
            habits: how to behave.

        Raises:
            ProtocolError: ``opening`` is not the peer's in this network.
            StorageError: the store cannot be read.
        """
        self._habits = habits or Habits()
        openings = partial(check_opening, network=network)
        own = [key.peer, *(Key(seed).peer for seed, _ in store.own())]
        self.logs = Logs(network, store, openings, own, self._habits.quota_bytes)
        self.author = Author(self.logs, key, opening, self._habits.fresh_key, wall)
        self.fold = Fold(self.logs)
        self.models = Models(self.fold)
        self._talks = Talks(self.logs, rng, self._habits.timeout_s)
        self._searches: dict[PeerId, Search] = {}
        self._unsaid: list[Effect] = []  # of forks: true, whatever came with them
        self._rng, self._store = rng, store
        if self._habits.fresh and not self.logs.by_writer:
            self._took(self.author.begin())
        self._repeat()
        store.commit()

    @property
    def topics(self) -> Collection[str]:
        return (TOPIC,)

    @property
    def ready(self) -> bool:
        """Whether ``write`` goes on with a log that there is; else it begins one."""
        return self.author.ready

    @property
    def view(self) -> View:
        """What all that was written comes to; read only, and a moment's truth."""
        return self.fold.view()

    def root(self) -> str:
        """Return a hash, in hex, that is equal where all logs are equal."""
        return self.logs.root().hex()

    def heads(self) -> dict[PeerId, tuple[int, str]]:
        """Return the length and the last link, in hex, of what counts of every log."""
        tips = {writer: log.shown for writer, log in self.logs.by_writer.items()}
        return {writer: (tip.length, tip.link.hex()) for writer, tip in tips.items()}

    def write(self, said: Sequence[tuple[Kind, bytes]]) -> Sequence[Effect]:
        """Write entries of ours; they are durable when this returns.

        Raises:
            ConfigError: one of a kind that does not count in our role.
            ProtocolError: one is too long, or an opening; nothing is written.
            StorageError: the disk failed.
        """
        self.author.check_kinds(kind for kind, _ in said)
        entries = [Entry(Kind(kind), body) for kind, body in said]
        added = self.author.write(entries) if entries else []
        self._took(added)
        self._store.commit()
        return self._spread(News(self.logs.root(), (), list(map(segment_of, added))))

    def step(self, now_s: float, event: Event) -> Sequence[Effect]:
        self._talks.now_s = now_s
        if isinstance(event, Told | Asked | Answered):
            self._talks.mute.discard(event.peer)
        effects = self._stepped(now_s, event)
        unsaid, self._unsaid = self._unsaid, []
        return [*unsaid, *effects, *self._talks.next()]

    def _stepped(self, now_s: float, event: Event) -> list[Effect]:
        match event:
            case Up(peer):
                self._talks.up(peer)
            case Down(peer):
                self._talks.down(peer)
            case Told(peer, _, body):
                return self._told(peer, decode(body))
            case Asked(peer, _, body, ticket):
                return self._answer(peer, decode(body), ticket)
            case Answered(peer, ticket, body):
                return self._answered(peer, ticket, body)
            case Failed(peer, ticket, lost):
                self._over(ticket)
                if lost and peer in self._talks.peers:
                    self._talks.mute.add(peer)
            case Woken():
                return self._woken(now_s)
        return []

    def _woken(self, now_s: float) -> list[Effect]:
        self._repeat()
        self._store.commit()
        self._talks.greet_any()
        return [Wake(now_s + self._habits.period_s * self._rng.uniform(0.75, 1.25))]

    def _told(self, peer: PeerId, message: Message) -> list[Effect]:
        if not isinstance(message, News) or message.whole or message.left:
            raise ProtocolError(f"{peer} tells what should be asked")
        return self._learn(peer, message)

    def _answer(self, peer: PeerId, message: Message, ticket: Ticket) -> list[Effect]:
        """Answer, and ask back for what we lack."""
        reply = reply_to(self.logs, message)
        if isinstance(message, Sync) and self.logs.changes.knows(message.root):
            self._talks.level(peer, message.root)
        self._talks.want(peer, reply.want)
        doubts = self._doubt(peer, reply.doubts)
        if isinstance(reply.said, str):
            return [Refuse(ticket, reply.said), *doubts]
        return [Answer(ticket, encode(reply.said)), *doubts]

    def _answered(self, peer: PeerId, ticket: Ticket, body: bytes) -> list[Effect]:
        question, search = self._over(ticket)
        if question is None:
            return []
        match question, decode(body):
            case ((Sync() | Pull()), News() as news):
                return self._news(peer, question, news)
            case Trace(), Links(links) if search:
                return self._search(peer, search.narrowed(self.logs, links))
            case Prove(writer, position), Branch() as other:
                fork = self.logs.fork(writer, position, other)
                return self._froze([fork] if fork else [])
        raise ProtocolError(f"{peer} answers another question")

    def _over(self, ticket: Ticket) -> tuple[Question | None, Search | None]:
        question = self._talks.done(ticket)
        if isinstance(question, Trace | Prove):
            return question, self._searches.pop(question.writer, None)
        return question, None

    def _news(self, peer: PeerId, question: Sync | Pull, news: News) -> list[Effect]:
        if news.whole:
            if isinstance(question, Pull) or question.since is None:
                raise ProtocolError(f"{peer} was told all, and asks for all")
            self._talks.apart(peer)
            return [self._talks.exchange(peer, sync_of(self.logs, None))]
        effects = self._learn(peer, news)
        left = news.left if news.forks or news.segments else ()  # not mere promises
        self._talks.want(peer, left)
        if isinstance(question, Sync):
            self._asked(peer, {item.writer for item in left})
        return effects

    def _asked(self, peer: PeerId, left: Collection[PeerId]) -> None:
        """``peer`` has told us how far it knows our own logs, or all but that."""
        if not set(self.author.writers).isdisjoint(left):
            self._talks.greet(peer)
        else:
            self._took(self.author.heard(peer, self._talks.peers))
            self._store.commit()

    def _learn(self, peer: PeerId, news: News) -> list[Effect]:
        """Take in what ``peer`` has told."""
        for fork in news.forks:
            fork.check(self.logs.network, self.logs.openings)
        self._unsaid += self._froze(news.forks)
        judged = check(self.logs, news.segments)
        self._took(self.logs.add(*(one for one in judged if isinstance(one, Added))))
        self._talks.want(peer, (one.wanted for one in judged if isinstance(one, Gap)))
        if news.root == self.logs.root():
            self._talks.level(peer, news.root)
        return self._doubt(peer, (one for one in judged if isinstance(one, Doubt)))

    def _took(self, added: Iterable[Added]) -> None:
        """Fold what was added to the logs."""
        for new in added:
            self.fold.take(new.opening, new.before.length, new.rows)

    def _doubt(self, peer: PeerId, doubts: Iterable[Doubt]) -> list[Effect]:
        """Look for where logs part that should be the same."""
        effects: list[Effect] = []
        for doubt in doubts:
            if doubt.writer not in self._searches and len(self._searches) < SEARCHES:
                effects += self._search(peer, Search(doubt.writer, 0, doubt.position))
        return effects

    def _search(self, peer: PeerId, search: Search | None) -> list[Effect]:
        if search is None:
            return []
        self._searches[search.writer] = search
        return [self._talks.ask(peer, search.question())]

    def _froze(self, forks: Iterable[Fork]) -> list[Effect]:
        """Freeze logs whose writers told two stories, and tell others."""
        first = sorted(forks, key=lambda fork: fork.position)
        new = [f for f in first if self.logs.freeze(f, f.writer in self.logs.own)]
        if not new:
            return []
        self._repeat()
        self._store.commit()
        notes = [Note("fork", fork.words, fork.writer) for fork in new]
        return [*notes, *self._spread(News(self.logs.root(), new))]

    def _repeat(self) -> None:
        """Write again what was cut off from a log of our own."""
        if not (owed := self._store.owed()):
            return
        try:
            self._took(self.author.prepare())
        except ConfigError:  # the network is full; it stays owed
            return
        entries, done = self.models.renewed(owed, self.author.pen.writer)
        if entries:
            self._took(self.author.write(entries))
        self._store.settle(done)

    def _spread(self, news: News) -> list[Effect]:
        """Tell a few peers at once, or greet them if it is much."""
        peers = sorted(self._talks.peers)
        few = self._rng.sample(peers, min(self._habits.fanout, len(peers)))
        if sum(map(size_of, news.segments)) <= NEWS_BYTES:
            body = encode(news)
            return [Tell(peer, TOPIC, body) for peer in few]
        for peer in few:
            self._talks.greet(peer)
        return list[Effect](self._talks.next())
