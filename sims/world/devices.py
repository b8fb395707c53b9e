"""How fast simulated devices compute: seconds per local batch, by peer and time.

A model draws each peer's own speed once, by name, and may shake it from work to
work by ``jitter``. The law of the draw is what papers call the client
heterogeneity: equal, normal or exponential speeds (Li et al., "FedCompass", ICLR
2024, section 5), or a trace of real devices.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, inf
from typing import Protocol

from fedcore.errors import ConfigError
from fedcore.strategy import PeerId
from sims.world.site import Site, at, seconds
from sims.world.traces import Columns, Traces, in_order, read_traces

SLOWEST = 100.0
FASTEST = 0.1


class Devices(Protocol):
    """The speed of every peer. Pure: the same arguments give the same answer."""

    def step_s(self, site: Site, now_s: float) -> float:
        """Return seconds per local batch for work sent at ``now_s``; >= 1e-6."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Every device needs the same time.

    Attributes:
        mean_s: seconds per local batch, > 0.
        jitter: spread of the lognormal factor drawn per work; 0 is none.
    """

    mean_s: float = 1.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _check(self.mean_s, self.jitter)

    def step_s(self, site: Site, now_s: float) -> float:
        return _shaken(site, self.mean_s, self.jitter, now_s)


@dataclass(frozen=True, slots=True)
class Normal:
    """Speeds are normal around a mean, cut to between a tenth and 100 means.

    Attributes:
        mean_s: mean seconds per local batch, > 0.
        spread: standard deviation as a share of the mean, >= 0.
        jitter: spread of the lognormal factor drawn per work; 0 is none.
    """

    mean_s: float = 1.0
    spread: float = 0.3
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _check(self.mean_s, self.jitter)
        if not 0 <= self.spread < inf:
            raise ConfigError(f"spread must be finite and >= 0, not {self.spread}")

    def step_s(self, site: Site, now_s: float) -> float:
        drawn = 1.0 + self.spread * site.normal("speed")
        return _shaken(site, self.mean_s * _cut(drawn), self.jitter, now_s)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Times are exponential: most devices quick, a few far slower than the rest.

    Attributes:
        mean_s: mean seconds per local batch, > 0; cut to between a tenth and 100.
        jitter: spread of the lognormal factor drawn per work; 0 is none.
    """

    mean_s: float = 1.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _check(self.mean_s, self.jitter)

    def step_s(self, site: Site, now_s: float) -> float:
        drawn = site.exponential(1.0, "speed")
        return _shaken(site, self.mean_s * _cut(drawn), self.jitter, now_s)


@dataclass(frozen=True, slots=True)
class Listed:
    """Speeds by name, for tests and small studies.

    Attributes:
        by_peer: seconds per local batch of every peer, > 0.
    """

    by_peer: Mapping[PeerId, float]

    def __post_init__(self) -> None:
        for value in self.by_peer.values():
            _check(value, 0.0)

    def step_s(self, site: Site, now_s: float) -> float:
        if site.peer not in self.by_peer:
            raise ConfigError(f"no speed is listed for {site.peer!r}")
        return seconds(self.by_peer[site.peer])


@dataclass(frozen=True, slots=True)
class Trace:
    """Speeds from a file: columns peer or index, step_s, and optionally time_s.

    Attributes:
        file: path of a CSV or JSON table (see ``sims.world.traces``). A row holds from
            its ``time_s`` until the device's next row; the first also before that.
        jitter: spread of the lognormal factor drawn per work; 0 is none.
    """

    file: str
    jitter: float = 0.0
    _traces: Traces = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(1.0, self.jitter)
        columns = Columns(["step_s"], {"time_s": 0.0}, {"step_s": 1e-6})
        traces = in_order(self.file, read_traces(self.file, columns), "time_s")
        object.__setattr__(self, "_traces", traces)

    def step_s(self, site: Site, now_s: float) -> float:
        rows = self._traces.rows(site)
        place = bisect_right(rows, now_s, key=lambda row: row["time_s"])
        return _shaken(site, rows[max(place - 1, 0)]["step_s"], self.jitter, now_s)


DEVICES: Mapping[str, type] = {
    "constant": Constant,
    "exponential": Exponential,
    "normal": Normal,
    "trace": Trace,
}


def _cut(factor: float) -> float:
    return min(max(factor, FASTEST), SLOWEST)


def _shaken(site: Site, step_s: float, jitter: float, now_s: float) -> float:
    """Return ``step_s`` times a lognormal factor of mean 1, drawn for this work."""
    if not jitter:
        return seconds(step_s)
    median = step_s * exp(-jitter * jitter / 2)
    return seconds(site.lognormal(median, jitter, "jitter", at(now_s)))


def _check(mean_s: float, jitter: float) -> None:
    if not 0 < mean_s < inf:
        raise ConfigError(f"seconds per step must be finite and > 0, not {mean_s}")
    if not 0 <= jitter <= 3:
        raise ConfigError(f"jitter must be in [0, 3], not {jitter}")
