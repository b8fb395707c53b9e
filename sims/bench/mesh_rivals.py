"""Moving bytes beside other peer-to-peer libraries; a part of "mesh".

Each end is a program of its own, with all the daemons that it needs; the cost is the
CPU time of the busier end. See ``sims.bench.channel`` for what is in our environment.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from sims.bench.channel import ECHO_BYTES, MEGA, SIZE_MB, WAYS, Far
from sims.bench.figures import draw, seconds_chart
from sims.bench.frame import Options, Row, middle, skipped, versus
from sims.bench.peers.pipes import cpu_s
from sims.bench.process import MissingError, Peer, Process
from sims.report.chart import Lines

PATIENCE_S = 60.0
ECHOES = 50  # of one turn


@dataclass(frozen=True, slots=True)
class Rival:
    """Two ends of one library, and what to know of it."""

    near: Peer
    far: Peer
    note: str


def rival(name: str, note: str) -> Rival:
    """Return the library whose program is ``<name>_end``."""
    module = f"sims.bench.peers.{name}_end"
    near, far = (Peer(name, module, [role], [name]) for role in ("near", "far"))
    return Rival(near, far, note)


RIVALS = (
    rival("hivemind", "p2pd, go-libp2p; a stream of bytes"),
    rival("lattica", "rust-libp2p; streamed answers of 10 MB, pickled"),
)


@dataclass
class Seen:
    """What one way was seen to cost.

    Attributes:
        pull: moves the bytes of a turn.
        echo: returns the seconds of some round trips.
        used: CPU seconds of both ends so far.
        cpu_s: for a GB, of the busier end, a turn each.
        trips_ms: of round trips.
    """

    pull: Callable[[], object]
    echo: Callable[[], list[float]]
    used: Callable[[], tuple[float, float]]
    cpu_s: list[float] = field(default_factory=list)
    trips_ms: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Measure once."""
        before = self.used()
        self.pull()
        spent_s = max(b - a for a, b in zip(before, self.used(), strict=True))
        self.cpu_s.append(1000 * spent_s / SIZE_MB)
        self.trips_ms += [1000 * each for each in self.echo()]


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    options.say("other peer-to-peer libraries, in turn with a channel")
    turns = 2 if options.quick else 7
    with ExitStack() as stack:
        ours, absent = _ours(stack), dict[str, str]()
        others: dict[str, Seen] = {}
        for each in RIVALS:
            try:
                others[each.near.name] = _theirs(each, options, stack)
            except MissingError as reason:
                name = each.near.name
                absent[name] = f"{reason}; pip install {name}"
        for _ in range(turns + 1 if others else 0):
            ours.turn()
            for name in list(others):
                try:
                    others[name].turn()
                except MissingError as reason:
                    absent[name] = str(reason)
                    del others[name]
    if others:
        draw(options, chart({"fedcore": ours, **others}))
    for each in RIVALS:
        yield from _rows_of(each, ours, others, absent)


def chart(seen: dict[str, Seen]) -> Lines:
    """Return the spread of round trips: how many of a hundred are quicker."""
    spread = {name: sorted(each.trips_ms[ECHOES:]) for name, each in seen.items()}
    return seconds_chart(
        "bench-mesh-trips",
        f"Round trips of {ECHO_BYTES} bytes, the slowest hundredth left out",
        "Lower is better; on one machine, one question at a time.",
        "per cent that are quicker",
        {
            name: [(p, ms[len(ms) * p // 100] / 1000) for p in range(100)]
            for name, ms in spread.items()
        },
    )


def _rows_of(
    each: Rival, ours: Seen, others: dict[str, Seen], absent: dict[str, str]
) -> Iterator[Row]:
    name = each.near.name
    title, bulk = f"channel vs {name}", f"{SIZE_MB} MB to one peer"
    if name in absent:
        yield skipped(title, bulk, "CPU-s/GB", absent[name])
        return
    mine, its = (middle(seen.cpu_s[1:]) for seen in (ours, others[name]))
    note = f"{1000 / mine:.0f} against {1000 / its:.0f} MB per CPU-second; {each.note}"
    yield versus(title, bulk, mine, its, "CPU-s/GB", note)
    mine, its = (middle(seen.trips_ms[ECHOES:]) for seen in (ours, others[name]))
    yield versus(title, f"{ECHO_BYTES} B there and back", mine, its, "ms")


def _ours(stack: ExitStack) -> Seen:
    far = Far("channel")
    stack.callback(far.close)
    way = WAYS["channel"][0](far.where)
    stack.callback(way.close)
    into = memoryview(bytearray(SIZE_MB * MEGA))

    def echo() -> list[float]:
        taken = []
        for _ in range(ECHOES):
            began_s = time.perf_counter()
            way.echo(bytes(ECHO_BYTES))
            taken.append(time.perf_counter() - began_s)
        return taken

    return Seen(lambda: way.pull(into), echo, lambda: (cpu_s(), far.cpu_s()))


def _theirs(each: Rival, options: Options, stack: ExitStack) -> Seen:
    """Start both ends of a rival and connect them.

    Raises:
        MissingError: it is not installed, or does not come about.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedcore-"))
    far = Process(each.far, options.pythons, folder)
    stack.callback(far.close)
    near = Process(each.near, options.pythons, folder)
    stack.callback(near.close)
    where = far.said("where", {}, PATIENCE_S)
    near.said("reach", {"where": where}, PATIENCE_S)
    word = {"count": ECHO_BYTES, "times": ECHOES}
    return Seen(
        lambda: near.said("pull", {"count": SIZE_MB * MEGA}, PATIENCE_S),
        lambda: list(near.said("echo", word, PATIENCE_S)),
        lambda: (near.cpu_s(), far.cpu_s()),
    )
