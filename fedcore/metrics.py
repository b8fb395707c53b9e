"""What happened, one row a round: for progress, ``metrics.jsonl`` and the report.

Rows hold numbers only: never parameters, data or keys. A row is made when a round is
folded, from the coordinator's ``Fold``; what was refused or lost since the last fold is
counted into it.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from fedcore.errors import StorageError

if TYPE_CHECKING:  # reading a run's metrics must not take the seconds torch needs
    from fedcore.coordinator import Fold
    from fedcore.strategy import AnyState, Update


@dataclass(frozen=True, slots=True)
class Row:
    """One folded round.

    Attributes:
        round: rounds folded so far, >= 1.
        clients: answers folded.
        examples: training examples behind them.
        train_loss: mean local loss weighted by examples; None if nobody told it.
        staleness: mean of the rounds folded between an answer's work and its fold.
        staleness_max: the largest of them.
        refused: answers the gate turned away, by kind.
        lost: peers that did not answer.
        down_bytes: sent to clients since the row before.
        up_bytes: heard from clients since the row before.
        clock_s: time of the fold on the link's clock; virtual in simulation.
        wall_s: real seconds since the row before.
        sha256: digest of the model after the fold (``fedcore.params.digest``).
        peers: whose answers were folded, sorted.
        eval: figures on held-out examples; empty when not evaluated.
    """

    round: int
    clients: int
    examples: int
    train_loss: float | None
    staleness: float
    staleness_max: int
    refused: Mapping[str, int]
    lost: int
    down_bytes: int
    up_bytes: int
    clock_s: float
    wall_s: float
    sha256: str
    peers: tuple[str, ...] = ()
    eval: Mapping[str, float] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the row as a JSON object; what is not finite becomes null."""
        value: dict[str, Any] = plain(asdict(self))
        return value

    @classmethod
    def of(cls, value: object) -> Self:
        """Return the row written as ``value``.

        Raises:
            StorageError: it is not a row.
        """
        names = {f.name for f in fields(cls)}
        known = value if isinstance(value, dict) else {}
        peers = known.get("peers")
        if not names <= known.keys() or not isinstance(peers, list | tuple):
            raise StorageError(f"not a row of metrics: {str(value)[:60]!r}")
        row = {name: known[name] for name in names}
        return cls(**{**row, "peers": tuple(peers)})


def plain(value: Any) -> Any:
    """Return ``value`` with what JSON cannot hold, such as NaN, as None."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


@dataclass
class Meter:
    """Counts what a coordinator does and makes a row of each folded round.

    Attributes:
        traffic: returns the bytes so far, (down, up).
        wall_s: a steady clock, in seconds.
        evaluate: returns figures of a state, or nothing when it is not due.
    """

    traffic: Callable[[], tuple[int, int]]
    wall_s: Callable[[], float]
    evaluate: "Callable[[AnyState], Mapping[str, float]]"
    _refused: Counter[str] = field(default_factory=Counter)
    _lost: int = 0
    _bytes: tuple[int, int] = (0, 0)
    _since_s: float | None = None

    def start(self) -> None:
        """Begin to count time and bytes now."""
        self._since_s, self._bytes = self.wall_s(), self.traffic()

    def take(self, fold: "Fold[Any]") -> Row | None:
        """Count ``fold``; return the row of the round that it finished, if any."""
        self._refused.update(r.kind for r in fold.refused)
        self._lost += len(fold.lost)
        if not fold.folded:
            return None
        row = self._row(fold)
        self._refused, self._lost = Counter(), 0
        return row

    def _row(self, fold: "Fold[Any]") -> Row:
        from fedcore.params import digest

        version = fold.state.version
        ages = [version - 1 - u.version for u in fold.folded]
        wall_s, before_s = self.wall_s(), self._since_s
        down, up = self.traffic()
        row = Row(
            round=version,
            clients=len(fold.folded),
            examples=sum(u.examples for u in fold.folded),
            train_loss=mean_metric(fold.folded, "loss"),
            staleness=sum(ages) / len(ages),
            staleness_max=max(ages),
            refused=dict(sorted(self._refused.items())),
            lost=self._lost,
            down_bytes=down - self._bytes[0],
            up_bytes=up - self._bytes[1],
            clock_s=fold.now_s,
            wall_s=0.0 if before_s is None else wall_s - before_s,
            sha256=digest(fold.state.params),
            peers=tuple(sorted(u.peer for u in fold.folded)),
            eval=self.evaluate(fold.state),
        )
        self._since_s, self._bytes = self.wall_s(), (down, up)
        return row


def mean_metric(updates: "Sequence[Update]", name: str) -> float | None:
    """Return the mean of metric ``name`` over those that have it, by examples."""
    told = [(u.metrics[name], u.examples) for u in updates if name in u.metrics]
    if not told:
        return None
    return sum(value * n for value, n in told) / sum(n for _, n in told)


def read_rows(text: str) -> list[Row]:
    """Return the rows of a ``metrics.jsonl``; a torn last line is left out.

    Raises:
        StorageError: another line is not a row; the message gives its number.
    """
    lines = text.splitlines(keepends=True)
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row.of(json.loads(line)))
        except (ValueError, StorageError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break  # the program was killed while it wrote this line
            raise StorageError(f"line {number} of the metrics: {error}") from error
    return rows


def line_of(row: Row) -> str:
    """Return ``row`` as a line of ``metrics.jsonl``."""
    return json.dumps(row.json(), separators=(",", ":")) + "\n"


def csv_of(rows: Sequence[Row]) -> str:
    """Return ``rows`` as CSV text; refusals become a count, peers are left out."""
    figures = sorted({name for row in rows for name in row.eval})
    left_out = ("peers", "eval")
    columns = [f.name for f in fields(Row) if f.name not in left_out]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *(f"eval_{name}" for name in figures)])
    for row in rows:
        value = row.json()
        value["refused"] = sum(row.refused.values())
        writer.writerow(
            [value[name] for name in columns]
            + [value["eval"].get(name) for name in figures]
        )
    return out.getvalue()
