"""What a benchmark is, and the row it prints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median

from fedcore.errors import ConfigError

BENCHES: Mapping[str, str] = {
    "adapters": "sims.bench.adapters:BENCH",
    "async": "sims.bench.asynchrony:BENCH",
    "coding": "sims.bench.coding:BENCH",
    "crdt": "sims.bench.crdt:BENCH",
    "clustered": "sims.bench.clustered:BENCH",
    "hierarchy": "sims.bench.hierarchy:BENCH",
    "mesh": "sims.bench.mesh:BENCH",
    "nat": "sims.bench.nat:BENCH",
    "seeds": "sims.bench.seeds:BENCH",
    "sim": "sims.bench.sim:BENCH",
    "split": "sims.bench.split:BENCH",
    "strategies": "sims.bench.strategies:BENCH",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        name: what is compared with whom, such as ``"mlp-big vs pfl"``.
        work: the work both sides did.
        ours: our figure; None if there is none.
        other: the peer's figure or the limit, in the same unit; None if skipped.
        ratio: how many times better ours is; above 1 is better. None if skipped.
        unit: of both figures; a lower figure is better.
        note: why something is missing, or what to know when reading it.
    """

    name: str
    work: str
    ours: float | None
    other: float | None
    ratio: float | None
    unit: str
    note: str = ""

    def plain(self) -> dict[str, str | float | None]:
        """Return the row as plain data, figures with four digits."""
        return {k: _short(v) for k, v in asdict(self).items()}


def _short(value: str | float | None) -> str | float | None:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def versus(
    name: str, work: str, ours: float, other: float, unit: str, note: str = ""
) -> Row:
    """Return the row of two figures of which the lower one is better."""
    return Row(name, work, ours, other, other / ours, unit, note)


def counted(
    name: str, work: str, ours: float, other: float, unit: str, note: str = ""
) -> Row:
    """Return the row of a count that should be 0, which has no ratio."""
    return Row(name, work, float(ours), float(other), None, unit, note)


def skipped(name: str, work: str, unit: str, reason: str) -> Row:
    """Return the row of a comparison that could not be made, and why."""
    return Row(name, work, None, None, None, unit, f"skipped: {reason}")


def middle(samples: Sequence[float]) -> float:
    """Return the median of ``samples``."""
    return float(median(samples))


def quiet(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark is run.

    Attributes:
        quick: at most 50 seconds, with fewer peers and repeats.
        pythons: interpreter by peer name, for peers that live in their own
            environment.
        say: told what is going on.
        figures: folder for figures, named ``<bench>-<what>.svg``; None draws none.
    """

    quick: bool = False
    pythons: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = quiet
    figures: Path | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark.

    Attributes:
        help: one line for ``fedcore bench --list``.
        about: how the comparison is made, and what to know when reading it.
        rows: measures, and yields rows as they are ready.
    """

    help: str
    about: Sequence[str]
    rows: Callable[[Options], Iterator[Row]]


def load_bench(name: str) -> Bench:
    """Return the benchmark called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in BENCHES:
        raise ConfigError(f"no benchmark is called {name!r}; known: {_known()}")
    module, _, attribute = BENCHES[name].partition(":")
    bench: Bench = getattr(import_module(module), attribute)
    return bench


def _known() -> str:
    return ", ".join(sorted(BENCHES))
