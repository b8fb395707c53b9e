"""Replicated state beside documents of other libraries: a part of "crdt".

Engines live in processes of their own and take turns: ``sims.bench.peers.crdt_log`` is
ours, ``sims.bench.peers.crdt_docs`` are the others'. They sign nothing.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from sims.bench.figures import draw, seconds_chart
from sims.bench.frame import Options, Row, counted, middle, skipped, versus
from sims.bench.process import MissingError, Peer, Process

OURS = Peer("fedcore", "sims.bench.peers.crdt_log")
PYCRDT, LORO = (
    Peer(name, "sims.bench.peers.crdt_docs", [name], [name])
    for name in ("pycrdt", "loro")
)
RIVALS = (PYCRDT, LORO)
BATCHES = (1, 16, 256)
ENTRY_BYTES = 119
KEPT = 10_000
TRIED = 200  # forged entries, and flipped bits
CLONES, CLONED_EACH = 10, 50
PATIENCE_S = 120.0
MICRO = 1e6
SIGNED = "Lower is better. Ours is signed by its writer, the others sign nothing."
Make = Callable[[str, str, float, float, str, str], Row]
AUTOMERGE = (
    "its newest wheel, 0.1.2, only merges documents within one process: it neither "
    "saves one nor says what has changed"
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done.

    Attributes:
        many: entries written and checked.
        turns: of each engine.
        peers, each: replicas that gossip, and entries of each of them.
    """

    many: int = 4_096
    turns: int = 5
    peers: int = 50
    each: int = 200


QUICK = Size(1_024, 2, 20, 100)


@dataclass
class Ring:
    """The engines that take part.

    Attributes:
        running: by name.
        absent: why others do not, by name.
    """

    running: dict[str, Process] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def start(self, peers: Sequence[Peer], options: Options, stack: ExitStack) -> None:
        """Start processes that end with ``stack``."""
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedcore-"))
        for peer in peers:
            try:
                process = Process(peer, options.pythons, folder)
            except MissingError as reason:
                self.absent[peer.name] = f"{reason}; pip install {peer.name}"
            else:
                self.running[peer.name] = process
                stack.callback(process.close)

    def all(self, do: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """Return what each engine says; who fails is out for good."""
        said = {}
        for name, process in list(self.running.items()):
            try:
                said[name] = process.said(do, words, PATIENCE_S)
            except MissingError as reason:
                self.absent[name] = str(reason)
                del self.running[name]
        return said

    def turns(
        self, count: int, do: str, words: Mapping[str, Any]
    ) -> dict[str, list[float]]:
        """Return what each engine says in each of ``count`` turns."""
        rounds = [self.all(do, words) for _ in range(count)]
        return {name: [said[name] for said in rounds] for name in rounds[-1]}

    def beside(
        self,
        name: str,
        work: str,
        found: dict[str, float],
        unit: str,
        note: str = "",
        row: Make = versus,
    ) -> Iterator[Row]:
        """Yield a row of one figure for each rival; the lower figure is better."""
        for rival in RIVALS:
            title = f"{name} vs {rival.name}"
            if rival.name in found and OURS.name in found:
                ours, other = found[OURS.name], found[rival.name]
                yield row(title, work, ours, other, unit, note)
            else:
                reason = self.absent.get(rival.name) or self.absent[OURS.name]
                yield skipped(title, work, unit, reason)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    size = QUICK if options.quick else Size()
    ring = Ring()
    with ExitStack() as stack:
        options.say("state: other libraries start")
        ring.start([OURS, *RIVALS], options, stack)
        options.say("state: keeping and telling beside others")
        yield from _sized(ring)  # first: nothing was freed that could be used anew
        yield from _paced(ring, size, options)
        options.say("state: gossip beside others")
        yield from _gossiped(ring, size)
        options.say("state: clones, forgeries and flipped bits")
        yield from _safe(ring)
    yield skipped("all of it vs automerge", "as above", "µs", AUTOMERGE)


def _paced(ring: Ring, size: Size, options: Options) -> Iterator[Row]:
    """Yield what writing and checking an entry costs."""
    for do, words in (("write", "write"), ("check", "take in")):
        options.say(f"state: {do} beside others")
        lines: dict[str, list[tuple[float, float | None]]] = {}
        for batch in BATCHES:
            work = f"{size.many} entries of {ENTRY_BYTES} bytes"
            asked = {"many": size.many, "batch": batch, "size_bytes": ENTRY_BYTES}
            taken = ring.turns(size.turns, do, asked)
            found = {n: middle(t) / size.many * MICRO for n, t in taken.items()}
            note = "CPU time; ours is signed" if do == "write" else "CPU time"
            note += ", a batch a signature" if do == "write" else "; ours is checked"
            name = f"{words}, {batch} at a time,"
            yield from ring.beside(name, work, found, "µs", note)
            for name, each in found.items():
                lines.setdefault(name, []).append((batch, each / MICRO))
        title = f"Seconds to {words} one entry, by entries of a batch"
        x_label = "entries of a batch: one signature, or one transaction"
        draw(options, seconds_chart(f"bench-crdt-{do}", title, SIGNED, x_label, lines))


def _sized(ring: Ring) -> Iterator[Row]:
    """Yield what many entries take in memory and on the wire."""
    work, bare = f"{KEPT} entries of {ENTRY_BYTES} bytes", KEPT * ENTRY_BYTES
    ring.all("keep", {"many": 1, "size_bytes": ENTRY_BYTES})  # all is loaded
    before = _memory(ring)
    ring.all("keep", {"many": KEPT, "size_bytes": ENTRY_BYTES})
    grown = {n: max(1.0, m - before[n]) for n, m in _memory(ring).items()}
    note = f"growth of the process; the entries alone are {bare}"
    yield from ring.beside("memory", work, grown, "bytes", note)
    told = ring.all("join", {"many": KEPT, "size_bytes": ENTRY_BYTES})
    yield from ring.beside("all of it, told to who is new", work, told, "bytes")


def _memory(ring: Ring) -> dict[str, int]:
    return {name: process.memory_bytes() for name, process in ring.running.items()}


def _gossiped(ring: Ring, size: Size) -> Iterator[Row]:
    """Yield what it takes until replicas that have all written are level."""
    peers, each = size.peers, size.each
    work = f"{peers} replicas, {each} entries of {ENTRY_BYTES} bytes each"
    asked = {"peers": peers, "each": each, "size_bytes": ENTRY_BYTES}
    said = ring.all("gossip", asked)
    new_bytes = peers * each * ENTRY_BYTES * (peers - 1)
    over = {n: f"{100 * (s['bytes'] / new_bytes - 1):+.1f} %" for n, s in said.items()}
    note = "over what is new: " + ", ".join(f"{n} {x}" for n, x in over.items())
    figures = (
        ("bytes", "bytes", note),
        ("s", "s", "CPU time of all replicas; ours checks"),
        ("rounds", "rounds", "everybody asks one other, in turn"),
    )
    for key, unit, words in figures:
        found = {n: float(s[key]) for n, s in said.items()}
        yield from ring.beside(f"gossip, {unit},", work, found, unit, words)


def _safe(ring: Ring) -> Iterator[Row]:
    """Yield how often what must not happen has happened."""
    work = f"{CLONES} replicas and a copied disk, {CLONED_EACH} entries by each of two"
    said = ring.all("clone", {"peers": CLONES, "each": CLONED_EACH})
    note = "after all have exchanged with all"
    figures = (("apart", "replicas apart"), ("missing", "entries not everywhere"))
    for key, words in figures:
        name = f"one id writes twice: {words}"
        found = {engine: counts[key] for engine, counts in said.items()}
        yield from ring.beside(name, work, found, "count", note, counted)
    work, name = f"{TRIED} entries in another's name", "forged entries believed"
    note = "told to a replica that knows the other"
    found = ring.all("forge", {"count": TRIED})
    yield from ring.beside(name, work, found, "count", note, counted)
    work = f"a message of 16 entries, {TRIED} times with one bit wrong"
    note = "the replica then shows neither what it was nor what was said"
    found = ring.all("flip", {"count": TRIED})
    yield from ring.beside("flipped bits believed", work, found, "count", note, counted)
