"""``fedcore bench crdt``: the replicated state, beside its limits and other libraries.

First what cannot be saved (signatures, hashes, new bytes), then pycrdt and Loro on the
same work, and how often each believes what it must not.
"""

from collections.abc import Iterator

from sims.bench import crdt_ours, crdt_rivals
from sims.bench.frame import Bench, Options, Row

ABOUT = (
    "Entries of one writer's log, signed in batches; the others set keys of one map in "
    "transactions, and sign nothing: **they write faster because they do not sign.**",
    "Engines have a process each and take turns; their costs are CPU time. Gossip: "
    "everybody exchanges with one other, drawn at random, until all hold the same.",
    "Counts of what must not happen should be 0. A wrong bit by chance is one thing, a "
    "forger another: Loro's checksum finds the first, and stops nobody who means it.",
    "pycrdt (tested: 0.14.13) is Yjs in Rust, Loro (1.17.1) is Rust, ours is Python "
    "around OpenSSL. Loro lives in an environment of its own: pip install loro, then "
    "--peer-python loro=PATH.",
)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    yield from crdt_ours.rows(options)
    yield from crdt_rivals.rows(options)


BENCH = Bench(
    "replicated state: speed, size and safety beside other libraries", ABOUT, rows
)
