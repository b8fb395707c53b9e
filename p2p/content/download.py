"""One blob that is wanted: whom to ask for what, and what becomes of the answers.

First everybody is asked what they have, a few at a time; then somebody for the
manifest; then all sources for chunks (``p2p.content.fetch``). Peers are asked again
later, the sooner the more is to be expected of them.
"""

import math
import random
from dataclasses import dataclass

from fedcore.errors import ProtocolError, StorageError
from fedcore.names import PeerId
from p2p.content.asks import CHUNK, MANIFEST, WHAT, Wanted, decode_stock, is_stock
from p2p.content.cid import Cid, cid_of
from p2p.content.fetch import Fetch
from p2p.content.manifest import Manifest, decode_manifest
from p2p.content.progress import Progress, Rate
from p2p.content.shelf import Shelf
from p2p.machine import Note

SURVEYS = 16  # asks "what do you have?" under way
MAX_SOURCES = 32
MAX_ASKED_PEERS = 2048  # remembered
UNDER_WAY_BYTES = 64 << 20  # of chunks, from all sources together
MANIFESTS = 2  # asks for the manifest under way
SMALL_TIMEOUT_S = 10.0
NOTHING_S, PART_S, ALL_S, LOST_S = 20.0, 4.0, 120.0, 6.0  # until asked again
LOOK_S = 0.25  # between looks at who is due


@dataclass(frozen=True, slots=True)
class Call:
    """One ask to be made."""

    peer: PeerId
    ask: Wanted
    timeout_s: float


class Download:
    """The state of one download.

    Attributes:
        outcome: None while it goes on, "" when the blob is here, else why it failed.
        barred: peers who lied about this blob; not asked again.
    """

    def __init__(
        self, cid: Cid, shelf: Shelf, rng: random.Random, now_s: float
    ) -> None:
        self.cid = cid
        self.outcome: str | None = None
        self.limit_bytes, self.patience_s = math.inf, math.inf
        self.barred: dict[PeerId, None] = {}
        self._shelf, self._rng = shelf, rng
        self._manifest: Manifest | None = None
        self._fetch: Fetch | None = None
        self._stocks: dict[PeerId, bytes] = {}  # until the manifest is here
        self._due_s: dict[PeerId, float] = {}  # when to ask a peer what it has
        self._busy: dict[tuple[PeerId, int], None] = {}  # small asks under way
        self._look_s = -math.inf  # nobody is due before
        self._news_s, self._rate = now_s, Rate(now_s)

    def suggest(self, peer: PeerId) -> None:
        """Ask ``peer`` what it has, if that has not been asked."""
        if peer not in self.barred and len(self._due_s) < MAX_ASKED_PEERS:
            self._due_s.setdefault(peer, -math.inf)
            self._look_s = -math.inf

    def leave(self, peer: PeerId) -> None:
        """Forget a peer that is gone; it may come back."""
        for known in (self._stocks, self._due_s):
            known.pop(peer, None)
        for kind in (WHAT, MANIFEST):
            self._busy.pop((peer, kind), None)
        if self._fetch is not None:
            self._fetch.leave(peer)

    @property
    def sources(self) -> int:
        """How many peers are known to have something of the blob."""
        return len(self._fetch.sources if self._fetch else self._stocks)

    def heard(self, peer: PeerId, stock: bytes, now_s: float) -> list[Note]:
        """Take note of what ``peer`` says it has."""
        if peer in self.barred:
            return []
        try:
            self._hear(peer, stock, now_s)
        except ProtocolError as error:
            return self._bar(peer, "bad-stock", str(error))
        return []

    def calls(self, now_s: float) -> list[Call]:
        """Return what to ask whom now; each must be answered or failed later."""
        if self.outcome is not None:
            return []
        small = [*self._surveys(now_s), *self._manifest_calls(now_s)]
        for call in small:
            self._busy[call.peer, call.ask.kind] = None
        return [*small, *self._chunk_calls(now_s)]

    def answered(self, call: Call, body: bytes, now_s: float) -> list[Note]:
        """Take an answer; what is wrong with it is said in the notes."""
        self._done_with(call)
        if self.outcome is not None or call.peer in self.barred:
            return []
        try:
            if call.ask.kind == WHAT:
                self._hear(call.peer, body, now_s)
            elif call.ask.kind == MANIFEST:
                self._take_manifest(body, now_s)
            else:
                self._take_chunk(call, body, now_s)
        except ProtocolError as error:
            what = {WHAT: "stock", MANIFEST: "manifest", CHUNK: "chunk"}
            return self._bar(call.peer, f"bad-{what[call.ask.kind]}", str(error))
        except StorageError as error:
            self.outcome = str(error)
        return []

    def failed(self, call: Call, lost: bool, now_s: float) -> None:
        """Take note that an ask has no answer."""
        self._done_with(call)
        known = lost and (self._fetch is None or call.peer in self._fetch.sources)
        again_s = now_s + (LOST_S if known else NOTHING_S)
        if call.ask.kind == MANIFEST:
            self._stocks.pop(call.peer, None)
        if call.ask.kind == CHUNK and self._fetch is not None:
            source = self._fetch.sources.get(call.peer)
            self._fetch.over(call.peer, call.ask.index)
            if source is not None:
                source.failed(call.ask.index, now_s)
                again_s = source.rests_until_s
            if not lost:
                self._fetch.lacks(call.peer, call.ask.index)
        if call.peer in self._due_s:
            self._due_s[call.peer] = again_s

    def begin(self, manifest: Manifest, now_s: float) -> None:
        """Go on from what the shelf has, now that the manifest is known."""
        if manifest.size_bytes > self.limit_bytes:
            size, most = manifest.size_bytes, self.limit_bytes
            self.outcome = f"it has {size} bytes, and at most {most:.0f} are wanted"
            return
        self._manifest = manifest
        self.check(now_s, 0)

    @property
    def checking(self) -> bool:
        """Whether there is more to hash before anything is fetched."""
        known = self._manifest is not None and self._fetch is None
        return known and self.outcome is None

    def check(self, now_s: float, most_bytes: int) -> None:
        """Hash some more of what was here before a restart; fetch if that was all."""
        self._news_s, manifest = now_s, self._manifest
        if manifest is None or not self.checking or not self._begun(most_bytes):
            return
        at_once = UNDER_WAY_BYTES // manifest.chunk_bytes
        self._fetch = Fetch(self._shelf.have(self.cid), self._rng, at_once)
        heard, self._stocks = self._stocks, {}
        for peer, stock in heard.items():
            self.heard(peer, stock, now_s)
        self._look_if_whole()

    def mend(self) -> None:
        """Fetch again what the shelf has found damaged and forgotten."""
        if self._fetch is not None:
            for index, here in enumerate(self._shelf.have(self.cid)):
                if not here:
                    self._fetch.gone(index)

    def look(self, now_s: float) -> None:
        """End if all is here by now; fail if nothing good came for too long."""
        if self._fetch and self._fetch.whole and self._begun(0):
            self._look_if_whole()
        if self.outcome is None and now_s - self._news_s > self.patience_s:
            who = f"{self.sources} sources" if self.sources else "nobody had it"
            self.outcome = f"no good chunk for {self.patience_s:.0f} s: {who}"

    def progress(self, now_s: float) -> Progress:
        """Return how far this is."""
        if self._manifest is None:
            words = "asking for the manifest" if self._stocks else "looking for sources"
            sources = dict.fromkeys(self._stocks, 0)
            return Progress(self.cid, None, 0, 0.0, sources, words)
        have, span = self._shelf.have(self.cid), self._manifest.span
        kept = sum(span(i)[1] for i, here in enumerate(have) if here)
        found = self._fetch.sources if self._fetch else {}
        sources = {peer: s.sent_bytes for peer, s in found.items()}
        words = "fetching" if sources else "looking for sources"
        words = "checking what is here" if self.checking else words
        rate, size = self._rate.bytes_s(now_s), self._manifest.size_bytes
        return Progress(self.cid, size, kept, rate, sources, words)

    def _begun(self, most_bytes: int) -> bool:
        """Return whether the shelf is ready for chunks, or done with all of them."""
        try:
            known = self._manifest
            return known is not None and self._shelf.begin(known, most_bytes)
        except StorageError as error:
            self.outcome = str(error)
            return False

    def _done_with(self, call: Call) -> None:
        if call.ask.kind != CHUNK:
            self._busy.pop((call.peer, call.ask.kind), None)
            self._look_s = -math.inf

    def _hear(self, peer: PeerId, stock: bytes, now_s: float) -> None:
        if self._fetch is None:
            if is_stock(stock) and self.sources < MAX_SOURCES:
                self._stocks[peer] = stock
            self._due_s[peer] = now_s + NOTHING_S
            return
        flags = decode_stock(stock, self._fetch.chunks)
        if not flags.any():
            self._fetch.leave(peer)
        elif peer in self._fetch.sources or self.sources < MAX_SOURCES:
            self._fetch.stocked(peer, flags)
        wait_s = ALL_S if flags.all() else PART_S if flags.any() else NOTHING_S
        self._due_s[peer] = now_s + wait_s

    def _surveys(self, now_s: float) -> list[Call]:
        if now_s < self._look_s:
            return []
        self._look_s = now_s + LOOK_S
        room = SURVEYS - sum(kind == WHAT for _, kind in self._busy)
        full = self.sources >= MAX_SOURCES
        mine = self._fetch.sources if self._fetch else self._stocks
        due = [
            peer
            for peer, at_s in self._due_s.items()
            if at_s <= now_s
            and (peer, WHAT) not in self._busy
            and not (full and peer not in mine)
        ]
        ask = Wanted(WHAT, self.cid)
        return [Call(peer, ask, SMALL_TIMEOUT_S) for peer in due[: max(room, 0)]]

    def _manifest_calls(self, now_s: float) -> list[Call]:
        if self._manifest is not None:
            return []
        room = MANIFESTS - sum(kind == MANIFEST for _, kind in self._busy)
        free = [peer for peer in self._stocks if (peer, MANIFEST) not in self._busy]
        chosen = self._rng.sample(free, min(max(room, 0), len(free)))
        ask = Wanted(MANIFEST, self.cid)
        return [Call(peer, ask, 2 * SMALL_TIMEOUT_S) for peer in chosen]

    def _chunk_calls(self, now_s: float) -> list[Call]:
        if self._fetch is None:
            return []
        sources = self._fetch.sources
        return [
            Call(peer, Wanted(CHUNK, self.cid, index), sources[peer].timeout_s)
            for peer, index in self._fetch.picks(now_s)
        ]

    def _take_manifest(self, body: bytes, now_s: float) -> None:
        if self._manifest is not None:
            return
        if cid_of(body) != self.cid:
            raise ProtocolError(f"{len(body)} bytes that are not its manifest")
        # By the hash, this is what the id names: what is wrong is nobody's lie.
        try:
            self.begin(decode_manifest(body), now_s)
        except ProtocolError as error:
            self.outcome = f"the id names no blob: {error}"
        self._news_s = now_s

    def _take_chunk(self, call: Call, body: bytes, now_s: float) -> None:
        if self._fetch is None:
            return
        if self._shelf.manifest(self.cid) is None:
            self.outcome = "it was removed from the shelf"
            return
        index, source = call.ask.index, self._fetch.sources.get(call.peer)
        new = self._shelf.keep(self.cid, index, body)
        self._fetch.here(index)
        self._fetch.over(call.peer, index)
        if source is not None:
            source.answered(index, now_s)
            source.sent_bytes += len(body)
        if new:
            self._rate.count(len(body), now_s)
            self._news_s = now_s
        self._look_if_whole()

    def _look_if_whole(self) -> None:
        blob = self._shelf.blob(self.cid)
        if blob is not None and blob.whole:
            self.outcome = ""

    def _bar(self, peer: PeerId, kind: str, why: str) -> list[Note]:
        self.leave(peer)
        self.barred[peer] = None
        return [Note(kind, f"{why}; it is not asked for {self.cid} again", peer)]
