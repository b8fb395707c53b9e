"""``fedcore bench nat``: pairs of peers behind real routers, ours and Lattica's.

Network namespaces with nftables play the routers (``sims.natlab``): every kind with
every kind, the same homes and the same relay for both libraries, in one run.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path

from fedcore.errors import PeerLostError
from sims.bench.frame import Bench, Options, Row, counted, middle, skipped, versus
from sims.bench.process import MissingError, Peer, Process
from sims.natlab.lab import Lab, Place
from sims.natlab.routers import KINDS, Kind
from sims.natlab.spaces import why_not

ABOUT = (
    "Two machines, each behind a router of its own, and a public relay: "
    "`fedcore peer relay`, which speaks libp2p's relay v2 and so serves both. One "
    "machine is there and kept by the relay; the clock runs from the start of the "
    "other's node to the first answer to a question.",
    "Ours are whole nodes: membership is checked, and only answers over a data channel "
    "count, direct or through the blind relay. Lattica's is an RPC; it refuses those "
    "that could only go through a relay. Both get 6 s, and a second try.",
    "Lattica listens on TCP and QUIC at its machine's own address, and punches with "
    "DCUtR: of what we tried (0.0.0.0; p2pd of go-libp2p as the relay, which speaks "
    "QUIC too) these settings reached the most pairs.",
    "Cables of namespaces: no delay, no loss, and routers that keep to one rule. "
    "Lattica reports about 70 % direct on the internet; delay, loss, moves and cuts "
    "are the tests' affair (tests/nat).",
    "Lattica (tested: 1.0.21) lives in an environment of its own: pip install lattica, "
    "then --peer-python lattica=PATH. Needs root, iproute2 and nftables.",
)
OURS = Peer("fedcore", "sims.bench.peers.peer_end")
LATTICA = Peer("lattica", "sims.bench.peers.lattica_end", needs=["lattica"])
QUICK: Sequence[tuple[Kind, Kind]] = (
    ("open", "port-restricted"),
    ("port-restricted", "shifting"),
    ("symmetric", "double"),
)
PATIENCE_S = 6.0  # for one meeting
START_S = 60.0  # for programs to start, and to be kept by the relay
WORK = "from a node's start to the first answer"
Pair = tuple[Kind, Kind]


@dataclass(frozen=True, slots=True)
class Met:
    """What became of one meeting.

    Attributes:
        way: "direct ...", "relayed ...", or empty if no question was answered.
        took_s: until the first answer.
        why: there is none.
    """

    way: str = ""
    took_s: float = 0.0
    why: str = ""

    @property
    def skipped(self) -> bool:
        """Whether the programs did not run."""
        return self.why.startswith("skipped")


Found = Mapping[Pair, Met]


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    if reason := why_not():
        yield skipped("all pairs", WORK, "s", reason)
        return
    pairs = list(QUICK if options.quick else all_pairs())
    with Lab() as lab, tempfile.TemporaryDirectory(prefix="fedcore-") as folder:
        town = Town(lab, Path(folder), options)
        ours, theirs = dict[Pair, Met](), dict[Pair, Met]()
        for pair in pairs:
            options.say(f"{pair[0]} calls {pair[1]}")
            theirs[pair], ours[pair] = (town.meet(w, pair) for w in (LATTICA, OURS))
            yield row_of(pair, ours[pair], theirs[pair])
    for line in (*table("fedcore", ours), *table("lattica", theirs)):
        options.say(line)
    yield from summed(ours, theirs)


BENCH = Bench("ways through home routers, pair by pair, beside lattica", ABOUT, rows)


def all_pairs() -> Iterator[Pair]:
    """Yield every kind with every kind, the one that calls first.

    Where just one is symmetric they meet twice: it matters which of them calls.
    """
    for a, b in combinations_with_replacement(KINDS, 2):
        yield a, b
        if a != b and "symmetric" in (a, b):
            yield b, a


@dataclass
class Town:
    """A laboratory with a relay, and homes as they are needed."""

    lab: Lab
    folder: Path
    options: Options

    def __post_init__(self) -> None:
        self.homes: dict[str, Place] = {}
        place = self.lab.host("relay")
        words = ("peer", "relay", "--home", str(self.folder), "--listen", place.ip)
        process = self.lab.python(place, "fedcore", *words)
        assert process.stdout is not None  # noqa: S101 - a pipe, as all of a lab's
        line = process.stdout.readline()
        if not line.startswith("relay at "):
            raise PeerLostError(f"the relay does not start: {process.communicate()[1]}")
        self.relay = line.split()[-1]

    def home(self, side: str, kind: Kind) -> Place:
        """Return the home of one side of pairs."""
        name = f"{side}-{kind}"
        if name not in self.homes:
            self.homes[name] = self.lab.home(name, kind)
        return self.homes[name]

    def meet(self, who: Peer, pair: Pair) -> Met:
        """Let the first of ``pair`` reach the second, again if there is no answer."""
        met = self.met(who, pair)
        return met if met.way or met.skipped else self.met(who, pair)

    def met(self, who: Peer, pair: Pair) -> Met:
        """Let the first of ``pair`` reach the second, which waits for it, once."""
        places = [self.home(side, kind) for side, kind in zip("ab", pair, strict=True)]
        relays = {"relays": [self.relay]}
        ends: list[Process] = []
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            try:
                ends += (self._end(who, place, folder) for place in places)
                near, far = ends
                where = far.said("keep", relays, START_S)
                asked = {**relays, "where": where, "patience_s": PATIENCE_S}
                return Met(**near.said("meet", asked, START_S))
            except MissingError as reason:
                return Met(why=f"skipped: {reason}")
            finally:
                for end in ends:
                    end.dismiss()
                for end in ends:
                    end.close()

    def _end(self, who: Peer, place: Place, folder: str) -> Process:
        words = [place.name, place.ip]
        within = replace(who, args=words, inside=self.lab.inside(place))
        return Process(within, self.options.pythons, folder)


def row_of(pair: Pair, ours: Met, theirs: Met) -> Row:
    """Return the row of one pair; without a ratio where one of the two failed."""
    name = f"{pair[0]} calls {pair[1]} vs lattica"
    note = f"{_words(ours)}; lattica: {_words(theirs)}"
    if ours.way and theirs.way:
        return versus(name, WORK, ours.took_s, theirs.took_s, "s", note)
    took = [met.took_s if met.way else None for met in (ours, theirs)]
    return Row(name, WORK, took[0], took[1], None, "s", note)


def summed(ours: Found, theirs: Found) -> Iterator[Row]:
    """Yield what all pairs say together."""
    title, work = "all pairs vs lattica", f"{len(ours)} pairs"
    reasons = [met.why for met in theirs.values() if met.skipped]
    if len(reasons) == len(theirs):
        yield skipped(title, work, "s", reasons[0].removeprefix("skipped: "))
        return
    for what, way in (("that cannot talk", ("d", "r")), ("not direct", ("d",))):
        mine, its = (
            sum(not met.way.startswith(way) for met in found.values())
            for found in (ours, theirs)
        )
        yield counted(f"pairs {what} vs lattica", work, mine, its, "pairs")
    both = [pair for pair in ours if ours[pair].way and theirs[pair].way]
    if both:
        mine_s, its_s = (middle([m[p].took_s for p in both]) for m in (ours, theirs))
        note = f"median of the {len(both)} pairs that both connect"
        yield versus(title, WORK, mine_s, its_s, "s", note)


def table(who: str, found: Found) -> Iterator[str]:
    """Yield the lines of a matrix, if there is one: how they met, and the seconds."""
    if all(met.skipped for met in found.values()):
        return
    yield f"{who}, rows call columns: D direct, R relayed, - no answer; seconds"
    kinds = [kind for kind in KINDS if any(kind in pair for pair in found)]
    yield " " * 16 + "".join(f"{kind[:10]:11}" for kind in kinds).rstrip()
    for a in kinds:
        cells = [found.get((a, b)) or found.get((b, a)) for b in kinds]
        yield f"{a:16}" + "".join(f"{_cell(met):11}" for met in cells).rstrip()


def _cell(met: Met | None) -> str:
    if met is None:
        return ""
    return f"{met.way[0].upper()} {met.took_s:.1f}" if met.way else "-"


def _words(met: Met) -> str:
    return met.way.partition(" by ")[0] or met.why.partition(" for peer")[0]
