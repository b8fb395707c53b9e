"""What the replicated state costs: to write, check, tell and keep; a part of "crdt".

The limit beside each figure is what cannot be saved: bare signatures and hashes, the
bytes that are new to a replica, the bare write to disk.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from math import ceil, log2
from os import fsync
from pathlib import Path
from tempfile import TemporaryDirectory

from fedcore.disk import RealDisk
from p2p.identity.keys import verify
from p2p.identity.openings import check_opening
from p2p.machine import (
    Tell,
)
from p2p.state.bodies import Count
from p2p.state.chain import Entry, Kind, digest_of, next_link
from p2p.state.checking import check
from p2p.state.exchange import segment_of
from p2p.state.fold import Fold
from p2p.state.held import News, Pen
from p2p.state.logs import Logs
from p2p.state.sqlite import SqliteLogStore
from p2p.state.store import LogStore, MemoryLogStore
from sims.bench.crdt_mesh import FOUNDER, FOUNDING, Mesh
from sims.bench.frame import Options, Row, middle, versus

OPENINGS = partial(check_opening, network=FOUNDING.network)
BATCHES = (1, 16, 256)
TURNS = 3
MICRO = 1e6


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    many = 1_024 if options.quick else 4_096
    options.say("state: writing and checking")
    yield from _written(many)
    yield from _checked(many)
    yield from _on_disk(64 if options.quick else 256)
    options.say("state: folding and keeping")
    yield _folded(many)
    yield _kept(10_000)
    options.say("state: gossip")
    peers, each = (20, 100) if options.quick else (50, 200)
    for size_bytes in (12, 119):
        yield from _gossip(peers, each, size_bytes)
    yield _told()


def _written(many: int) -> Iterator[Row]:
    for batch in BATCHES:
        ours = middle([_us(many, partial(_write, many, batch)) for _ in range(TURNS)])
        bare = middle([_us(many, partial(_bare, many, batch)) for _ in range(TURNS)])
        note = f"{MICRO / ours:.0f} entries/s, in memory; the limit signs and hashes"
        work = f"{many} entries of 12 bytes, signed every {batch}"
        yield versus("write vs bare cryptography", work, ours, bare, "µs", note)


def _write(many: int, batch: int, store: LogStore | None = None) -> Logs:
    logs = opened(store or MemoryLogStore())
    for _ in range(many // batch):
        for news in logs.say(pen(), [entry(12)] * batch):
            logs.add(news)
        logs.store.commit()
    return logs


def _bare(many: int, batch: int) -> None:
    link, digest = bytes(32), digest_of(entry(12))
    for position in range(many):
        digest = b"\7" + sha256(digest).digest()
        link = next_link(link, position, digest)
        if position % batch == 0:
            FOUNDER.sign("fedcore/bench/1", link)


def _checked(many: int) -> Iterator[Row]:
    for batch in BATCHES:
        source = opened(MemoryLogStore())
        news = [
            one
            for _ in range(many // batch)
            for one in _added(source, source.say(pen(), [entry(12)] * batch))
        ]
        ours = middle([_us(many, partial(_check, news)) for _ in range(TURNS)])
        bare = middle(
            [_us(many, partial(_bare_check, many, batch)) for _ in range(TURNS)]
        )
        note = f"{MICRO / ours:.0f} entries/s; whoever is behind gets 256 a signature"
        work = f"{many} entries of 12 bytes, signed every {batch}, as they come"
        yield versus("check vs bare cryptography", work, ours, bare, "µs", note)


def _check(news: list[News]) -> None:
    logs = opened(MemoryLogStore())
    for one in news:
        for good in check(logs, [segment_of(one)]):
            if isinstance(good, News):
                logs.add(good)


def _bare_check(many: int, batch: int) -> None:
    body = bytes(32)
    signature = FOUNDER.sign("fedcore/bench/1", body)
    link, digest = bytes(32), digest_of(entry(12))
    for position in range(many):
        digest = b"\7" + sha256(digest).digest()
        link = next_link(link, position, digest)
        if position % batch == 0:
            verify(FOUNDER.peer, "fedcore/bench/1", body, signature)


def _on_disk(many: int) -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        store = SqliteLogStore(RealDisk(Path(folder)))
        ours = _us(many, partial(_write, many, 1, store))
        store.close()
        bare = _us(many, partial(_bare_disk, many, Path(folder) / "bare"))
    note = f"{MICRO / ours:.0f} entries/s, each durable before the next"
    yield versus(
        "durable write vs bare flush", f"{many} entries", ours, bare, "µs", note
    )


def _bare_disk(many: int, path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(many):
            file.write(bytes(150))
            file.flush()
            fsync(file.fileno())


def _folded(many: int) -> Row:
    logs = _write(many, 256)
    fold = Fold(logs)
    anew = _us(1, fold.view)
    [news] = _added(logs, logs.say(pen(), [entry(12)]))

    def one_more() -> None:
        fold.take(news.opening, news.before.length, news.rows)
        fold.view()

    more = _us(1, one_more)
    work = f"one entry after {many}"
    return versus("fold one more vs fold anew", work, more, anew, "µs")


def _kept(many: int) -> Row:
    tracemalloc.start()
    logs = opened(MemoryLogStore())
    for number in range(many // 100):
        entries = [entry(119, number * 100 + i) for i in range(100)]
        _added(logs, logs.say(pen(), entries))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    work = f"{many} entries of 119 bytes, in memory"
    note = "a MemoryLogStore before its first commit; SqliteLogStore keeps them on disk"
    return versus("memory vs bare entries", work, size, many * 119, "bytes", note)


def _gossip(peers: int, each: int, size_bytes: int) -> Iterator[Row]:
    mesh = Mesh.of(peers)
    new_bytes = mesh.fill(
        [[entry(size_bytes, at * each + n) for n in range(each)] for at in range(peers)]
    )
    rounds = mesh.level()
    work = f"{peers} replicas, {each} entries of {size_bytes} bytes each"
    needed = new_bytes * (peers - 1)
    note = "new: entries and one signature a writer, for each other replica"
    yield versus("gossip vs what is new", work, mesh.sent_bytes, needed, "bytes", note)
    least = ceil(log2(peers))
    note = (
        "a round: everybody exchanges with one other, in turn; a limit for one writer"
    )
    yield versus("rounds until level", work, rounds, least, "rounds", note)


def _told() -> Row:
    mesh = Mesh.of(4)
    node = next(iter(mesh.replicas.values()))
    [tell, *_] = node.write([(Kind.COUNT, entry(12).body)])
    size = len(tell.body) if isinstance(tell, Tell) else 0
    note = "with the signature, the writer and the sender's root"
    return versus("one entry told vs its bytes", "one peer", size, 14, "bytes", note)


def opened(store: LogStore) -> Logs:
    """Return logs that hold the founder's opening."""
    logs = Logs(FOUNDING.network, store, OPENINGS)
    _added(logs, logs.say(pen(), [Entry(Kind.OPENING, FOUNDING.encode())]))
    return logs


def pen() -> Pen:
    """Return the founder's pen."""
    return Pen(FOUNDER, OPENINGS(FOUNDING.encode()))


def _added(logs: Logs, news: list[News]) -> list[News]:
    for one in news:
        logs.add(one)
    return news


def entry(size_bytes: int, number: int = 0) -> Entry:
    """Return an entry of a kind that everybody may write, with so many bytes."""
    name = f"{number:x}".rjust(size_bytes - 2, "c")
    return Entry(Kind.COUNT, Count(name, 1).encode())


def _us(many: int, work: Callable[[], object]) -> float:
    """Return the microseconds that each of ``many`` things of ``work`` takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / many * MICRO
