"""When simulated peers are online, and whether they finish what they start.

A model lists each peer's hours as spans ``[start_s, end_s)``, from time 0 on, as far
as anyone reads. A peer that goes offline loses the work it had; so does one that
gives up in the middle (``Dropout``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Protocol

from fedcore.errors import ConfigError
from sims.world.site import Site, at, seconds
from sims.world.traces import Columns, Row, Traces, in_order, read_traces

DAY_S = 86_400.0
HOUR_S = 3_600.0

Span = tuple[float, float]


class Availability(Protocol):
    """The hours of every peer. Pure: same arguments, same answer."""

    def spans(self, site: Site) -> Iterator[Span]:
        """Yield when the peer is online: ascending, not empty, not touching."""
        ...

    def gives_up(self, site: Site, now_s: float) -> float | None:
        """Return after which share of the work sent at ``now_s`` the peer gives up.

        The share is in (0, 1); None when it does not give up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Always:
    """Every peer is online for ever."""

    def spans(self, site: Site) -> Iterator[Span]:
        yield 0.0, inf

    def gives_up(self, site: Site, now_s: float) -> float | None:
        return None


@dataclass(frozen=True, slots=True)
class Dropout:
    """Every peer is online, and gives up each work with the same probability.

    Attributes:
        probability: of giving up, in [0, 1], at a uniform point of the work.
    """

    probability: float = 0.1

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def spans(self, site: Site) -> Iterator[Span]:
        yield 0.0, inf

    def gives_up(self, site: Site, now_s: float) -> float | None:
        return _gives_up(self.probability, site, now_s)


@dataclass(frozen=True, slots=True)
class Markov:
    """Peers come and go by themselves: exponential times online and offline.

    At time 0 a peer is online with probability ``on_s / (on_s + off_s)``, so the share
    of peers online is the same at all times.

    Attributes:
        on_s: mean seconds online, > 0.
        off_s: mean seconds offline, > 0.
        dropout: probability that a peer gives up a work though it stays online.
    """

    on_s: float = 3600.0
    off_s: float = 3600.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.on_s < inf and 0 < self.off_s < inf):
            raise ConfigError(
                f"on_s and off_s must be finite and > 0: {self.on_s}, {self.off_s}"
            )
        _check_probability(self.dropout)

    def spans(self, site: Site) -> Iterator[Span]:
        share = self.on_s / (self.on_s + self.off_s)
        start_s = 0.0
        if site.uniform("online") >= share:
            start_s = seconds(site.exponential(self.off_s, "off", 0))
        for turn in count(1):
            end_s = start_s + seconds(site.exponential(self.on_s, "on", turn))
            yield start_s, end_s
            start_s = end_s + seconds(site.exponential(self.off_s, "off", turn))

    def gives_up(self, site: Site, now_s: float) -> float | None:
        return _gives_up(self.dropout, site, now_s)


@dataclass(frozen=True, slots=True)
class Daily:
    """Peers are online for some hours of every day, as phones that charge at night.

    Time 0 is midnight. Each peer's clock is shifted by up to ``spread_h``, as time
    zones and habits do.

    Attributes:
        start_h: hour of the day at which a peer comes online, in [0, 24).
        hours: how long it stays, in (0, 24).
        spread_h: width of the uniform shift of each peer, in [0, 24].
        dropout: probability that a peer gives up a work though it stays online.
    """

    start_h: float = 22.0
    hours: float = 8.0
    spread_h: float = 4.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not (
            0 <= self.start_h < 24 and 0 < self.hours < 24 and 0 <= self.spread_h <= 24
        ):
            raise ConfigError(
                "start_h must be in [0, 24), hours in (0, 24), spread_h in [0, 24]: "
                f"{self.start_h}, {self.hours}, {self.spread_h}"
            )
        _check_probability(self.dropout)

    def spans(self, site: Site) -> Iterator[Span]:
        shift_h = self.spread_h * (site.uniform("shift") - 0.5)
        first_s = seconds((self.start_h + shift_h) % 24 * HOUR_S) - DAY_S
        for day in count():
            start_s = first_s + day * DAY_S
            end_s = start_s + self.hours * HOUR_S
            if end_s > 0:
                yield max(start_s, 0.0), end_s

    def gives_up(self, site: Site, now_s: float) -> float | None:
        return _gives_up(self.dropout, site, now_s)


@dataclass(frozen=True, slots=True)
class Trace:
    """Hours from a file: columns peer or index, start_s, end_s.

    Attributes:
        file: path of a CSV or JSON table (see ``sims.world.traces``); a device's
            spans are in order and do not touch.
        repeat_s: the file starts again after so many seconds; 0 never repeats it.
        dropout: probability that a peer gives up a work though it stays online.
    """

    file: str
    repeat_s: float = 0.0
    dropout: float = 0.0
    _traces: Traces = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_probability(self.dropout)
        traces = read_traces(self.file, Columns(["start_s", "end_s"], {}, {}))
        object.__setattr__(self, "_traces", in_order(self.file, traces, "start_s"))
        last_s = max(self._check(rows) for rows in traces.devices)
        if self.repeat_s and not last_s < self.repeat_s < inf:
            raise ConfigError(
                f"repeat_s must be after the last span of {self.file}, "
                f"which ends at {last_s:g}: {self.repeat_s}"
            )

    def _check(self, rows: Sequence[Row]) -> float:
        before_s = -1.0
        for row in rows:
            if not before_s < row["start_s"] < row["end_s"]:
                raise ConfigError(
                    f"{self.file}: the span {row['start_s']:g} to {row['end_s']:g} is "
                    "empty or touches the one before"
                )
            before_s = row["end_s"]
        return before_s

    def spans(self, site: Site) -> Iterator[Span]:
        rows = self._traces.rows(site)
        for lap in count() if self.repeat_s else range(1):
            for row in rows:
                shift_s = lap * self.repeat_s
                yield row["start_s"] + shift_s, row["end_s"] + shift_s

    def gives_up(self, site: Site, now_s: float) -> float | None:
        return _gives_up(self.dropout, site, now_s)


AVAILABILITY: Mapping[str, type] = {
    "always": Always,
    "daily": Daily,
    "dropout": Dropout,
    "markov": Markov,
    "trace": Trace,
}


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"a probability must be in [0, 1], not {value}")


def _gives_up(probability: float, site: Site, now_s: float) -> float | None:
    if not probability or site.uniform("dropout", at(now_s)) >= probability:
        return None
    return site.uniform("gives up", at(now_s))
