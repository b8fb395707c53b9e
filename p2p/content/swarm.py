"""Blobs from many peers at once, every chunk checked before it is kept.

A peer that wants a blob asks who has what of it, fetches the manifest (checked by the
blob's id), then chunks from all sources at once (``p2p.content.fetch``), and serves
what it has meanwhile. A source that sends a bad chunk is named and not asked for this
blob again; one that is lost or slow loses its share to the others. What is on the shelf
when the program ends is not fetched again.

Who may ask is decided outside: only asks of members come here.
"""

import itertools
import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.errors import ConfigError
from fedcore.names import PeerId
from p2p.content.asks import CHUNK, TOPIC, decode_told, encode_ask
from p2p.content.cid import Cid, digest_of
from p2p.content.download import Call, Download
from p2p.content.manifest import MAX_BLOB_BYTES
from p2p.content.progress import Progress
from p2p.content.serving import Serving
from p2p.content.shelf import Shelf
from p2p.machine import (
    Answered,
    Ask,
    Asked,
    Down,
    Event,
    Failed,
    Note,
    Ticket,
    Told,
    Up,
    Wake,
    Woken,
)

TICK_S = 1.0
SEEK_S = 30.0  # between lookups for a blob whose sources are few
FEW = 3  # sources
MAX_WANTS = 16
PATIENCE_S = 3600.0
SLICE_BYTES = 8 << 20  # hashed in one step, while everything else waits
UP_BYTES_S = 2e9


@dataclass(frozen=True, slots=True)
class Ended:
    """An effect of our own: a download is over; ``why`` is empty when all is here."""

    cid: Cid
    why: str


@dataclass(frozen=True, slots=True)
class Seek:
    """An effect of our own: more sources would help; see ``Swarm.add_sources``."""

    cid: Cid


Out = Any  # an Effect, Ended or Seek


class Swarm:
    """A ``Machine`` on ``/swarm/1``.

    Args:
        shelf: where blobs are kept and served from.
        rng: breaks ties; seeded in simulations.
        up_bytes_s: pace of answers; what the channels' cap lets through.
    """

    topics: Collection[str] = (TOPIC,)

    def __init__(
        self,
        shelf: Shelf,
        rng: random.Random,
        *,
        up_bytes_s: float = UP_BYTES_S,
    ) -> None:
        self.shelf, self.rng = shelf, rng
        self._tickets = itertools.count(1)
        self._downloads: dict[Cid, Download] = {}
        self._serving = Serving(shelf, up_bytes_s, self._downloads)
        self._calls: dict[Ticket, Call] = {}
        self._sought_s: dict[Cid, float] = {}
        self._up: dict[PeerId, None] = {}
        self._alarm_s = math.inf
        self._tick_s = -math.inf
        self._started = False

    # What its owner says

    def want(
        self,
        now_s: float,
        cid: Cid,
        *,
        limit_bytes: int = MAX_BLOB_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> Sequence[Out]:
        """Fetch a blob; ``Ended`` tells when it is here, or why it never will be.

        Args:
            now_s: the time, of the clock of ``step``.
            cid: the blob.
            limit_bytes: a larger blob is refused before room is taken for it.
            patience_s: fail after so long without a good chunk.

        Raises:
            ProtocolError: ``cid`` is no content id.
            ConfigError: too many are being fetched already.
        """
        digest_of(cid)
        if cid in self._downloads:
            return ()
        if len(self._downloads) >= MAX_WANTS:
            raise ConfigError(f"{MAX_WANTS} blobs are being fetched; cancel one")
        download = Download(cid, self.shelf, self.rng, now_s)
        download.limit_bytes, download.patience_s = limit_bytes, patience_s
        self._downloads[cid] = download
        for peer in self._up:
            download.suggest(peer)
        manifest = self.shelf.manifest(cid)
        if manifest is not None:
            download.begin(manifest, now_s)
        return self._go_on(now_s, tick=True)

    def cancel(self, now_s: float, cid: Cid) -> Sequence[Out]:
        """Stop fetching a blob, and forget what is here of it."""
        download = self._downloads.get(cid)
        if download is None:
            return ()
        download.outcome = "cancelled"
        effects = self._go_on(now_s)
        blob = self.shelf.blob(cid)
        if blob is not None and not (blob.whole or blob.pinned):
            self.shelf.remove(cid)
        return effects

    def add_sources(
        self, now_s: float, cid: Cid, peers: Iterable[PeerId]
    ) -> Sequence[Out]:
        """Ask ``peers``, of whom others say that they have a blob, what they have."""
        if cid not in self._downloads:
            return ()
        for peer in peers:
            self._downloads[cid].suggest(peer)
        return self._go_on(now_s)

    def progress(self, cid: Cid, now_s: float) -> Progress | None:
        """Return how far a download is; None if there is none of this blob."""
        download = self._downloads.get(cid)
        return None if download is None else download.progress(now_s)

    @property
    def wanted(self) -> Sequence[Cid]:
        """The blobs that are being fetched, oldest first."""
        return list(self._downloads)

    # What happens

    def step(self, now_s: float, event: Event) -> Sequence[Out]:
        """See ``p2p.machine.Machine``."""
        effects = self._on(now_s, event)
        return [*effects, *self._go_on(now_s, tick=now_s >= self._tick_s)]

    def _on(self, now_s: float, event: Event) -> Sequence[Out]:
        match event:
            case Up(peer):
                self._up[peer] = None
                for download in self._downloads.values():
                    download.suggest(peer)
            case Down(peer):
                self._up.pop(peer, None)
                for download in self._downloads.values():
                    download.leave(peer)
                return self._serving.drop(peer)
            case Asked():
                return self._serving.asked(event)
            case Told(peer, _, body):
                cid, stock = decode_told(body)
                if cid in self._downloads and peer in self._up:
                    return self._downloads[cid].heard(peer, stock, now_s)
            case Answered(peer, ticket, body):
                return self._on_answer(now_s, peer, ticket, body)
            case Failed(peer, ticket):
                call = self._calls.pop(ticket, None)
                if call is not None and call.ask.cid in self._downloads:
                    self._downloads[call.ask.cid].failed(call, event.lost, now_s)
            case Woken():
                self._alarm_s = math.inf
                checking = [d for d in self._downloads.values() if d.checking]
                if checking:
                    checking[0].check(now_s, SLICE_BYTES)
                return self._resume(now_s)
        return ()

    def _on_answer(
        self, now_s: float, peer: PeerId, ticket: Ticket, body: bytes
    ) -> Sequence[Out]:
        call = self._calls.get(ticket)
        if call is None or call.peer != peer:
            return ()
        del self._calls[ticket]
        download = self._downloads.get(call.ask.cid)
        return download.answered(call, body, now_s) if download else ()

    def _resume(self, now_s: float) -> Sequence[Out]:
        """Go on, at the first event, with what was begun before a restart."""
        if self._started:
            return ()
        self._started = True
        parts = [blob.cid for blob in self.shelf.blobs() if not blob.whole]
        return [effect for cid in parts[:MAX_WANTS] for effect in self.want(now_s, cid)]

    def _go_on(self, now_s: float, *, tick: bool = False) -> list[Out]:
        """Serve, ask, end what is over, and set the alarm."""
        effects = self._serving.serve(now_s)
        effects += self._mend(now_s)
        if tick:
            self._tick_s = now_s + TICK_S
            effects += self._serving.news(now_s)
        for cid, download in list(self._downloads.items()):
            if tick:
                download.look(now_s)
                effects += self._sought(now_s, download)
            effects += self._asks(download, now_s)
            if download.outcome is not None and cid in self._downloads:
                effects += self._end(download, download.outcome)
        return [*effects, *self._wake(now_s)]

    def _asks(self, download: Download, now_s: float) -> list[Out]:
        effects: list[Out] = []
        for call in download.calls(now_s):
            ticket, bulk = next(self._tickets), call.ask.kind == CHUNK
            self._calls[ticket] = call
            body = encode_ask(call.ask)
            effects.append(Ask(call.peer, TOPIC, body, ticket, call.timeout_s, bulk))
        return effects

    def _sought(self, now_s: float, download: Download) -> Sequence[Out]:
        """Look for more sources now and then, while there are few."""
        last_s = self._sought_s.get(download.cid, -math.inf)
        if download.sources >= FEW or now_s < last_s + SEEK_S:
            return ()
        self._sought_s[download.cid] = now_s
        return [Seek(download.cid)]

    def _end(self, download: Download, why: str) -> Sequence[Out]:
        del self._downloads[download.cid]
        self._sought_s.pop(download.cid, None)
        self.shelf.release(download.cid)
        note = Note("fetch-failed", f"{download.cid}: {why}")
        if not why:
            note = Note("fetched", download.cid)
        return [note, Ended(download.cid, why)]

    def _mend(self, now_s: float) -> list[Out]:
        """Fetch again the blobs that were found damaged."""
        effects: list[Out] = []
        while self._serving.damaged:
            cid = self._serving.damaged.pop()
            if cid in self._downloads:
                self._downloads[cid].mend()
            elif len(self._downloads) < MAX_WANTS:
                effects += self.want(now_s, cid)
        return effects

    def _wake(self, now_s: float) -> list[Out]:
        """Set the alarm, if it has to ring before the one that is set."""
        times = [self._serving.ready_s(now_s) or math.inf]
        if self._downloads or self._serving.has_watchers:
            times.append(max(self._tick_s, now_s))
        if any(download.checking for download in self._downloads.values()):
            times.append(now_s)
        if min(times) >= self._alarm_s:
            return []
        self._alarm_s = min(times)
        return [Wake(self._alarm_s)]
