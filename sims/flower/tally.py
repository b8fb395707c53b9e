"""What happened in a Flower run: a line for each phase, and every failure at once."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from flwr.app import MetricRecord, RecordDict

from sims.flower.grid import Handled
from sims.flower.node import Failure

SHOWN = 5  # different failures shown in full


@dataclass
class Phase:
    """Messages of one kind in one round.

    Attributes:
        sums: of each metric times its weight, and the weights.
    """

    round: str
    kind: str
    begin_s: float
    answers: int = 0
    failed: int = 0
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def means(self) -> Mapping[str, float]:
        """Return the means of the answers' metrics, weighted by ``num-examples``."""
        return {name: s / w for name, (s, w) in self.sums.items() if w}


@dataclass
class Tally:
    """Watches a run and writes about it.

    Attributes:
        out: where phases go.
        errors: where failures go.
        as_json: write one JSON object a line to ``out``, failures included.
    """

    out: TextIO
    errors: TextIO
    as_json: bool = False
    messages: int = 0
    failed: int = 0
    phase: Phase | None = None
    seen: dict[str, int] = field(default_factory=dict)  # reason -> how often

    def watch(self, handled: Handled) -> None:
        """Take note of one message."""
        phase = self.phase
        if phase is None or (phase.round, phase.kind) != (handled.round, handled.kind):
            self.close()
            phase = Phase(handled.round, handled.kind, time.monotonic())
            self.phase = phase
        self.messages += 1
        if isinstance(handled.outcome, Failure):
            phase.failed += 1
            self.failed += 1
            self._failure(handled, handled.outcome)
        else:
            phase.answers += 1
            _add(phase.sums, handled.outcome)

    def close(self) -> None:
        """Write about the phase that ends, if any."""
        phase, self.phase = self.phase, None
        if phase is None:
            return
        wall_s = time.monotonic() - phase.begin_s
        if self.as_json:
            self._object(
                event="phase",
                round=phase.round,
                kind=phase.kind,
                answers=phase.answers,
                failed=phase.failed,
                metrics=phase.means(),
                wall_s=round(wall_s, 6),
            )
            return
        at = f"round {phase.round}, " if phase.round else ""
        told = [f"{phase.answers} answers"]
        told += [f"{phase.failed} failed"] if phase.failed else []
        told += [f"{name} {mean:.4g}" for name, mean in phase.means().items()]
        self.out.write(f"{at}{phase.kind}: {', '.join(told)} ({wall_s:.2f} s)\n")

    def done(self, wall_s: float) -> None:
        """Write the last line of a run whose ServerApp came to its end."""
        self.close()
        if self.as_json:
            self._object(
                event="done",
                messages=self.messages,
                failed=self.failed,
                wall_s=round(wall_s, 6),
            )
        else:
            count = f"{self.messages} messages, {self.failed} failed"
            self.out.write(f"done: {count}, {wall_s:.2f} s\n")

    def _failure(self, handled: Handled, failure: Failure) -> None:
        times = self.seen[failure.reason] = self.seen.get(failure.reason, 0) + 1
        if self.as_json:
            self._object(
                event="failure",
                node=handled.node_id,
                partition=handled.partition,
                round=handled.round,
                kind=handled.kind,
                code=failure.code,
                reason=failure.reason,
                trace=failure.trace,
            )
        elif times == 1 and len(self.seen) <= SHOWN:
            part = f" (partition {handled.partition})" if handled.partition >= 0 else ""
            at = f", round {handled.round}" if handled.round else ""
            self.errors.write(
                f"node {handled.node_id}{part}{at}, {handled.kind}: {failure.reason}\n"
                f"{failure.trace}"
            )

    def _object(self, **fields: Any) -> None:
        self.out.write(json.dumps(fields) + "\n")
        self.out.flush()


def _add(sums: dict[str, tuple[float, float]], records: RecordDict) -> None:
    for record in records.values():
        if not isinstance(record, MetricRecord):
            continue
        weight = record.get("num-examples", 1)
        weight = float(weight) if isinstance(weight, int | float) else 1.0
        for name, value in record.items():
            if name != "num-examples" and isinstance(value, int | float):
                total, weights = sums.get(name, (0.0, 0.0))
                sums[name] = (total + weight * value, weights + weight)
