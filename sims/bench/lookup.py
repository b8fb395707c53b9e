"""Who has a blob, among two hundred peers: questions, hops, and how often it fails.

The program's own machines (``p2p.content.lookup``) on a network of virtual time. Every
message takes 10 to 100 ms; who is gone never answers, and is given up after 5 s.
*Churn* is the worst kind: that share of all peers goes without a word between the
moment the records were stored and the lookups, and as many strangers come.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

from p2p.content.cid import Cid, cid_of
from p2p.content.lookup import PATHS, Lookup
from p2p.content.records import TOPIC, K, encode_found
from p2p.content.search import Found
from p2p.identity.keys import Key
from p2p.machine import Answer, Asked
from sims.bench.frame import Options, Row, versus
from sims.bench.hops import Hops

PEERS = 200
FULL, QUICK = 300, 60  # lookups
CHURN = (0.0, 0.1, 0.3)
LIARS = 0.5
AT_ONCE = 20
END_S = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """One lookup: whether it named the provider, when, and at what cost."""

    found: bool
    wait_s: float
    asks: int
    hops: int


class Liar:
    """A peer that knows only other liars, and of no blob."""

    topics = (TOPIC,)

    def __init__(self, friends: Sequence[str]) -> None:
        self.friends = friends

    def step(self, now_s: float, event: object) -> list[Answer]:
        """Answer any question in the same way."""
        if not isinstance(event, Asked):
            return []
        friends = [peer for peer in self.friends if peer != event.peer]
        return [Answer(event.ticket, encode_found(friends[:K], []))]


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    count = QUICK if options.quick else FULL
    for churn in CHURN:
        options.say(f"lookup: {PEERS} peers, {churn:.0%} churn")
        yield _row(f"find, {churn:.0%} churn", lookups(count, churn=churn))
    options.say(f"lookup: {LIARS:.0%} liars")
    yield _liars_row(*(lookups(count, liars=LIARS, paths=p) for p in (PATHS, 1)))


def lookups(
    count: int, *, churn: float = 0.0, liars: float = 0.0, paths: int = PATHS
) -> list[Result]:
    """Return what became of ``count`` lookups of as many blobs."""
    dice = random.Random(1)
    hops = Hops(1)
    keys = [_key(i) for i in range(PEERS)]
    for i, key in enumerate(keys):
        _join(hops, key, keys[: max(1, i)], dice, paths)
    hops.run(hops.now_s + 300)
    cids = {cid_of(i.to_bytes(4)): keys[i % PEERS].peer for i in range(count)}
    for cid, provider in cids.items():
        hops.do(provider, hops.machines[provider].provide(hops.now_s, cid))  # type: ignore[attr-defined]
    hops.run(hops.now_s + 60)
    _churn(hops, keys, int(churn * PEERS), dice, paths)
    bad = {key.peer for key in dice.sample(keys, int(liars * PEERS))}
    for peer in sorted(bad):
        hops.machines[peer] = Liar(sorted(bad))
    live = {cid: p for cid, p in cids.items() if p in hops.machines and p not in bad}
    good = sorted(hops.machines.keys() - bad)
    return [
        r for part in _parts(list(live)) for r in _ask(hops, part, live, good, dice)
    ]


def _row(name: str, results: Sequence[Result]) -> Row:
    """Return the row of asks a lookup, beside asking every peer."""
    waits = sorted(r.wait_s for r in results if r.found)
    hops = sorted(r.hops for r in results)
    note = (
        f"{_percent(results):.1f} % found, after {median(waits):.2f} s (p99 "
        f"{waits[int(0.99 * len(waits))]:.1f}); hops {median(hops):.0f}, "
        f"at most {hops[-1]}"
    )
    work = f"{PEERS} peers, {len(results)} lookups"
    return versus(name, work, mean(r.asks for r in results), PEERS - 1, "asks", note)


def _liars_row(ours: Sequence[Result], one: Sequence[Result]) -> Row:
    """Return the row of lookups that fail, with disjoint paths and without."""
    lost, alone = 100 - _percent(ours), 100 - _percent(one)
    asks = [mean(r.asks for r in found) for found in (ours, one)]
    return Row(
        f"find, {LIARS:.0%} liars: {PATHS} paths vs 1",
        f"{PEERS} peers, {len(ours)} lookups",
        lost,
        alone,
        alone / lost if lost else None,
        "% not found",
        f"{asks[0]:.0f} and {asks[1]:.0f} asks a lookup; liars know only each other",
    )


def _percent(results: Sequence[Result]) -> float:
    """Return how many lookups of a hundred named the provider."""
    return 100 * mean(r.found for r in results)


def _key(number: int) -> Key:
    return Key(number.to_bytes(32, "big"))


def _join(
    hops: Hops, key: Key, known: Sequence[Key], dice: random.Random, paths: int
) -> None:
    """Start a peer that knows one other."""
    rng = random.Random(dice.getrandbits(64))
    hops.add(key.peer, Lookup(key, "bench", rng, lambda: hops.now_s, paths=paths))
    if known[0] != key:
        hops.link(key.peer, dice.choice(known).peer)
    hops.run(hops.now_s + 1)


def _churn(
    hops: Hops, keys: Sequence[Key], count: int, dice: random.Random, paths: int
) -> None:
    """Let some go without a word, and as many strangers come."""
    gone = dice.sample(keys, count)
    for key in gone:
        hops.kill(key.peer, known=False)
    left = [key for key in keys if key.peer in hops.machines]
    for i in range(count):
        _join(hops, _key(PEERS + i), left, dice, paths)


def _parts(cids: Sequence[Cid]) -> Iterator[Sequence[Cid]]:
    for at in range(0, len(cids), AT_ONCE):
        yield cids[at : at + AT_ONCE]


def _ask(
    hops: Hops,
    cids: Sequence[Cid],
    providers: dict[Cid, str],
    good: Sequence[str],
    dice: random.Random,
) -> Iterator[Result]:
    """Look for some blobs at once, each from another peer than its provider."""
    hops.told.clear()
    begin_s, first_s = hops.now_s, dict[Cid, float]()
    for cid in cids:
        asker = dice.choice([peer for peer in good if peer != providers[cid]])
        hops.do(asker, hops.machines[asker].find(hops.now_s, cid))  # type: ignore[attr-defined]

    def over() -> bool:
        for _, e in hops.told:
            if isinstance(e, Found) and providers[e.cid] in e.peers:
                first_s.setdefault(e.cid, hops.now_s - begin_s)
        ends = [e for _, e in hops.told if isinstance(e, Found) and e.over]
        return len(ends) == len(cids)

    hops.run(begin_s + END_S, over)
    for end in (e for _, e in hops.told if isinstance(e, Found) and e.over):
        wait_s = first_s.get(end.cid, END_S)
        yield Result(end.cid in first_s, wait_s, end.asks, end.hops)
