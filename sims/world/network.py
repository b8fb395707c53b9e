"""How long simulated messages travel, and which of them are lost.

A model gives every peer a ``Pipe`` for the moment its work is sent. A message takes
the pipe's latency and its bytes at the pipe's rate. Peers do not share a
bottleneck: the coordinator's own link is taken to be wide enough.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from fedcore.errors import ConfigError
from sims.world.site import Site
from sims.world.traces import Columns, Traces, in_order, read_traces


@dataclass(frozen=True, slots=True)
class Pipe:
    """One peer's connection.

    Attributes:
        latency_s: seconds before the first byte arrives, each way, >= 0.
        up_bytes_per_s: rate from the peer, > 0; may be inf.
        down_bytes_per_s: rate to the peer, > 0; may be inf.
        loss: probability that a whole message is lost, each way, in [0, 1].
        notice_s: seconds after which a lost message is given up, > 0.
    """

    latency_s: float = 0.0
    up_bytes_per_s: float = inf
    down_bytes_per_s: float = inf
    loss: float = 0.0
    notice_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < inf:
            raise ConfigError(f"latency_s must be finite and >= 0: {self.latency_s}")
        if not (self.up_bytes_per_s > 0 and self.down_bytes_per_s > 0):
            raise ConfigError(
                "bytes per second must be > 0: "
                f"up {self.up_bytes_per_s}, down {self.down_bytes_per_s}"
            )
        if not 0 <= self.loss <= 1:
            raise ConfigError(f"loss must be a probability in [0, 1]: {self.loss}")
        if not 0 < self.notice_s < inf:
            raise ConfigError(f"notice_s must be finite and > 0: {self.notice_s}")

    def down_s(self, size_bytes: int) -> float:
        """Return seconds to bring ``size_bytes`` to the peer."""
        return self.latency_s + size_bytes / self.down_bytes_per_s

    def up_s(self, size_bytes: int) -> float:
        """Return seconds to bring ``size_bytes`` back."""
        return self.latency_s + size_bytes / self.up_bytes_per_s


class Network(Protocol):
    """The connection of every peer. Pure: same arguments, same answer."""

    def pipe(self, site: Site, now_s: float) -> Pipe:
        """Return the connection for work sent at ``now_s``."""
        ...


@dataclass(frozen=True, slots=True)
class Ideal:
    """Messages take no time and none is lost."""

    def pipe(self, site: Site, now_s: float) -> Pipe:
        return IDEAL


IDEAL = Pipe()


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every peer has the same connection; see ``Pipe`` for units and ranges.

    Attributes:
        latency_s: seconds before the first byte arrives, each way, >= 0.
        up_bytes_per_s: rate from the peer, > 0.
        down_bytes_per_s: rate to the peer, > 0.
        loss: probability that a message is lost, each way.
        notice_s: seconds after which a lost message is given up, > 0.
    """

    latency_s: float = 0.05
    up_bytes_per_s: float = 1.25e6
    down_bytes_per_s: float = 6.25e6
    loss: float = 0.0
    notice_s: float = 30.0

    def __post_init__(self) -> None:
        self._typical()

    def _typical(self) -> Pipe:
        return Pipe(
            self.latency_s,
            self.up_bytes_per_s,
            self.down_bytes_per_s,
            self.loss,
            self.notice_s,
        )

    def pipe(self, site: Site, now_s: float) -> Pipe:
        return self._typical()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Each peer draws its latency and rates once, lognormal around a median.

    Attributes:
        latency_s: median seconds before the first byte arrives, each way, >= 0.
        up_bytes_per_s: median rate from a peer, > 0.
        down_bytes_per_s: median rate to a peer, > 0.
        sigma: spread of the logarithm, in [0, 3]; 1 spans 1:50.
        loss: probability that a message is lost, each way.
        notice_s: seconds after which a lost message is given up, > 0.
    """

    latency_s: float = 0.05
    up_bytes_per_s: float = 1.25e6
    down_bytes_per_s: float = 6.25e6
    sigma: float = 0.7
    loss: float = 0.0
    notice_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 3:
            raise ConfigError(f"sigma must be in [0, 3], not {self.sigma}")
        self._drawn(1.0, 1.0, 1.0)

    def pipe(self, site: Site, now_s: float) -> Pipe:
        return self._drawn(
            site.lognormal(1.0, self.sigma, "latency"),
            site.lognormal(1.0, self.sigma, "up"),
            site.lognormal(1.0, self.sigma, "down"),
        )

    def _drawn(self, latency: float, up: float, down: float) -> Pipe:
        return Pipe(
            self.latency_s * latency,
            self.up_bytes_per_s * up,
            self.down_bytes_per_s * down,
            self.loss,
            self.notice_s,
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """Connections from a file, by device and time.

    The columns are peer or index, latency_s, up_bytes_per_s, down_bytes_per_s, and
    optionally loss and time_s. A row holds from its ``time_s`` until the device's
    next row; the first also before that.

    Attributes:
        file: path of a CSV or JSON table (see ``sims.world.traces``).
        notice_s: seconds after which a lost message is given up, > 0.
    """

    file: str
    notice_s: float = 30.0
    _traces: Traces = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rates = ["up_bytes_per_s", "down_bytes_per_s"]
        columns = Columns(
            ["latency_s", *rates],
            {"loss": 0.0, "time_s": 0.0},
            dict.fromkeys(rates, 1.0),
        )
        traces = in_order(self.file, read_traces(self.file, columns), "time_s")
        object.__setattr__(self, "_traces", traces)
        for device in traces.devices:
            for row in device:
                self._pipe(row)

    def pipe(self, site: Site, now_s: float) -> Pipe:
        rows = self._traces.rows(site)
        place = bisect_right(rows, now_s, key=lambda row: row["time_s"])
        return self._pipe(rows[max(place - 1, 0)])

    def _pipe(self, row: Mapping[str, float]) -> Pipe:
        return Pipe(
            row["latency_s"],
            row["up_bytes_per_s"],
            row["down_bytes_per_s"],
            row["loss"],
            self.notice_s,
        )


NETWORKS: Mapping[str, type] = {
    "ideal": Ideal,
    "lognormal": LogNormal,
    "trace": Trace,
    "uniform": Uniform,
}
