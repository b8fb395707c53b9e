"""``fedcore bench mesh``: the peer-to-peer mesh, beside limits and other libraries.

Data channels, relays, opening ways, whole nodes and lookups; each part is a module of
its own and says how it measures.
"""

import time
from collections.abc import Iterator
from importlib import import_module
from math import inf

from sims.bench.frame import Bench, Options, Row, skipped

LATE_S = 34.0  # in a quick run, what would begin later is left out
ABOUT = (
    "All on one machine, over loopback: what protocols cost, not what distance does; "
    "`fedcore bench nat` goes through routers.",
    "The cost of moving bytes is the CPU time of the busier end, its daemons included, "
    "which other programs disturb less than the time on a clock.",
    "The libp2p beside us is py-libp2p, in the same environment; its circuits run "
    "through a relay that speaks its relay v2 on its streams.",
    "hivemind (tested: 1.1.12) and Lattica (1.0.21) live in environments of their own: "
    "pip install hivemind (or lattica), then --peer-python hivemind=PATH; who is "
    "missing is skipped.",
    "Lookups: simulated network, virtual time; see sims/bench/lookup.py.",
)
PARTS = {
    "channels": "sims.bench.channel",
    "relays": "sims.bench.mesh_relay",
    "opening": "sims.bench.mesh_opening",
    "whole nodes": "sims.bench.mesh_gather",
    "other libraries": "sims.bench.mesh_rivals",
    "caps": "sims.bench.mesh_caps",
    "lookups": "sims.bench.lookup",
}


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    end_s = time.monotonic() + (LATE_S if options.quick else inf)
    for name, module in PARTS.items():
        yield from _in_time(name, _rows(name, module, options), end_s)


BENCH = Bench("peer-to-peer mesh: channels, relays, joining, lookups", ABOUT, rows)


def _rows(name: str, module: str, options: Options) -> Iterator[Row]:
    """Yield the rows of a part, which needs more packages than the rest of us."""
    try:
        part = import_module(module)
    except ModuleNotFoundError as error:
        reason = f"no module {error.name!r} here; pip install 'fedcore[mesh]'"
        yield skipped(f"{name}: all of it", "as described", "", reason)
        return
    yield from part.rows(options)


def _in_time(name: str, rows: Iterator[Row], end_s: float) -> Iterator[Row]:
    """Yield the rows of a part, but none that would be begun after ``end_s``."""
    while time.monotonic() < end_s:
        row = next(rows, None)
        if row is None:
            return
        yield row
    reason = "no time left in --quick"
    yield skipped(f"{name}: what is missing", "as described", "", reason)
