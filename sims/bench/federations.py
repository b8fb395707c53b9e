"""Federations that share their work by a code, on the virtual clock."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from fedcore.config import from_flags
from fedcore.metrics import Row as Round
from sims.bench.delays import Cloud
from sims.bench.frame import Options, Row, middle, skipped, versus
from sims.runs.config import RunConfig, configured
from sims.runs.run import Watcher, prepare, simulate

CLIENTS, BATCHES, ROUNDS, TARGET = 12, 12, 600, 0.9
UNCODED = "uncoded"
SCHEMES: Mapping[str, Sequence[str]] = {
    UNCODED: ["strategy=gradient-coding", "strategy.stragglers=0"],
    "GC": ["strategy=gradient-coding", "strategy.stragglers=1"],
    "SR-SGC": ["strategy=sr-sgc", "strategy.models=1"],
    "M-SGC": ["strategy=m-sgc", "strategy.models=1"],
}


@dataclass
class Clock:
    """Notes the virtual time of the last round."""

    now_s: float = 0.0

    def row(self, row: Round) -> None:
        """Hear of a round."""
        self.now_s = row.clock_s


def federation_rows(options: Options) -> Iterator[Row]:
    """Yield the median time in which federations reach the target."""
    seeds = range(1 if options.quick else 10)
    schemes = list(SCHEMES)[: 2 if options.quick else None]
    for cost_s in (1.12,) if options.quick else (1.12, 8.0):
        times: dict[str, list[float]] = {}
        for name in schemes:
            options.say(f"federation, c = {cost_s:g} s: {name}")
            configs = [config_of(SCHEMES[name], cost_s, seed) for seed in seeds]
            times[name] = [target_s(config) for config in configs]
        for name in schemes[1:]:
            yield _row(name, cost_s, times)


def _row(name: str, cost_s: float, times: Mapping[str, Sequence[float]]) -> Row:
    count = len(times[name])
    work = f"digits, {CLIENTS} clients; virtual time to accuracy {TARGET}"
    title = f"federation, c = {cost_s:g} s: {name} vs uncoded"
    ours, other = middle(times[name]), middle(times[UNCODED])
    reached = f"{sum(t < inf for t in times[name])} of {count} seeds got there"
    if inf in (ours, other):
        return skipped(title, work, "s", reached)
    return versus(title, work, ours, other, "s", reached)


def config_of(flags: Sequence[str], cost_s: float, seed: int) -> RunConfig:
    """Return a run of ``flags`` whose whole job costs one client ``cost_s``."""
    common = [
        f"run.clients={CLIENTS}",
        f"run.rounds={ROUNDS}",
        f"run.seed={seed}",
        f"run.target={TARGET}",
        "run.workers=1",
        "trainer.lr=0.5",
        f"strategy.batches={BATCHES}",
        f"devices.mean_s={cost_s / BATCHES}",
    ]
    return replace(configured(from_flags([*common, *flags])), network=Cloud())


def target_s(config: RunConfig) -> float:
    """Return the virtual time at which the run reaches its target; inf if never."""
    clock = Clock()
    result = simulate(prepare(config), Watcher(row=clock.row))
    return clock.now_s if result.ending == "target" else inf
