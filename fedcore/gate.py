"""Refusal of bad updates, one by one and with a reason, before anything uses them.

What is refused leaves no trace: the model is bit for bit what it would have been
had that peer been lost. Every check gives the same answer on every machine, so
peers that judge for themselves agree: extremes are exact, and a norm too close to
its limit for floating point to decide is settled in integers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.errors import ConfigError
from fedcore.faults import (
    Fault,
    metric_fault,
    names_fault,
    not_finite,
    peer_fault,
    tensor_fault,
    turn_fault,
    version_fault,
)
from fedcore.names import shown
from fedcore.params import Params
from fedcore.ring import LIMIT, ONE
from fedcore.strategy import PeerId, Update, Work

TINY = torch.finfo(torch.float32).tiny  # below it a float32 is subnormal
BLOCK = 1 << 24  # numbers per partial norm; float32 sums lose accuracy beyond
GRAIN = 1 << 20  # steps into which a norm limit is cut when it must be exact


@dataclass(frozen=True, slots=True)
class Refusal:
    """One update turned away.

    Attributes:
        kind: a stable word for programs and tests, such as ``"nan"``.
        reason: a sentence for people, with the numbers.
        ends_work: the peer owed this answer and will not be asked for it again;
            false for what nobody asked for (a duplicate, a stranger's update).
    """

    peer: PeerId
    kind: str
    reason: str
    ends_work: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What an update must be.

    Attributes:
        max_examples: largest weight one update may claim, >= 1.
        max_value: largest size of one number in a payload, > 0.
        max_norm: largest L2 norm of a payload taken as one vector, > 0.
        max_steps: largest ``steps`` an update may report, >= 1.
        max_metrics: most metrics one update may carry.
        ring: take sums of many peers too (int64 ring elements, see
            ``fedcore.ring``); plain clients have no reason to send them.
    """

    max_examples: int = 10_000_000
    max_value: float = 1e3
    max_norm: float = 1e4
    max_steps: int = 1_000_000
    max_metrics: int = 64
    ring: bool = False

    def __post_init__(self) -> None:
        for key in ("max_examples", "max_value", "max_norm", "max_steps"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key} must be above 0, not {getattr(self, key)}")

    def refusal(
        self,
        update: Update,
        work: Work | None,
        *,
        expects: Callable[[Work], Params],
        stale_after: int,
    ) -> Refusal | None:
        """Return why ``update`` is refused, or None if it is good.

        Args:
            update: the answer; nothing about it is taken for granted.
            work: what its sender was asked to do; None if nothing is out.
            expects: names, shapes and dtypes of an answer (``Strategy.expects``).
            stale_after: oldest version still worth folding.
        """
        fault = peer_fault(update.peer)
        peer = shown(update.peer) if fault else update.peer
        if work is None:
            kind, reason = fault or ("unasked", f"{peer} was not asked for anything")
            return Refusal(peer, kind, reason, ends_work=False)
        fault = (
            fault
            or version_fault(update.version, work.version, stale_after)
            or self._weight_fault(update.examples)
            or self._metrics_fault(update.metrics)
            or self._steps_fault(update.metrics, work)
            or turn_fault(update.metrics, work.hints.get("turn", 0))
            or self._payload_fault(update, expects(work))
        )
        if fault is None:
            return None
        return Refusal(peer, *fault, ends_work=True)

    def _weight_fault(self, examples: object) -> Fault | None:
        if type(examples) is not int:
            return "weight-type", f"the weight is {shown(examples)}, not an integer"
        if examples == 0:
            return "weight-zero", "the weight is 0, so there is nothing to fold"
        if examples < 0:
            return "weight-negative", f"the weight is {shown(examples)}, below 1"
        if examples > self.max_examples:
            size = shown(examples)
            return "weight-huge", f"the weight {size} is above {self.max_examples}"
        return None

    def _metrics_fault(self, metrics: object) -> Fault | None:
        if not isinstance(metrics, Mapping):
            return "metrics-type", f"metrics are a {type(metrics).__name__}, not a map"
        if len(metrics) > self.max_metrics:
            return "metrics-many", f"{len(metrics)} metrics, above {self.max_metrics}"
        return next(filter(None, map(metric_fault, metrics.items())), None)

    def _steps_fault(self, metrics: Mapping[str, float], work: Work) -> Fault | None:
        steps = metrics.get("steps")
        if steps is None:
            return None
        if steps < 1 or steps != int(steps):
            return "steps-form", f"{steps:g} steps reported, not a whole number >= 1"
        if steps > self.max_steps:
            return "steps-huge", f"{steps:g} steps reported, above {self.max_steps}"
        if work.steps and steps != work.steps:
            return "steps-other", f"{steps:g} steps reported, {work.steps} asked for"
        return None

    def _payload_fault(self, update: Update, wanted: Params) -> Fault | None:
        payload = update.payload
        fault = names_fault(payload, wanted)
        if fault is not None:
            return fault
        for name, like in wanted.items():
            fault = tensor_fault(name, payload[name], like, self.ring)
            if fault is not None:
                return fault
        floats = {n: payload[n] for n, t in wanted.items() if t.is_floating_point()}
        return self._numbers_fault(floats, update.examples)

    def _numbers_fault(self, floats: Params, examples: int) -> Fault | None:
        sums = sum(t.dtype == torch.int64 for t in floats.values())
        if 0 < sums < len(floats):
            return "ring-mixed", f"{sums} of {len(floats)} tensors are sums, not all"
        judge = self._sum_fault if sums else self._values_fault
        for name, t in floats.items():
            fault = judge(name, t, examples) if t.numel() else None
            if fault is not None:
                return fault
        one = examples * ONE
        tensors = [t.double() / one if sums else t for t in floats.values()]
        return self._norm_fault(tensors)

    def _values_fault(self, name: str, t: Tensor, examples: int) -> Fault | None:
        top = _top(t)
        if not math.isfinite(top):
            return not_finite(name, t)
        if top > self.max_value:
            return "value-huge", f"{name} holds {top:.4g}, above {self.max_value:g}"
        if top * examples >= LIMIT:
            product = f"{top:.4g} times its weight {examples}"
            return "weighted-huge", f"{name} holds {product}, above {LIMIT:.0f}"
        return None

    def _sum_fault(self, name: str, t: Tensor, examples: int) -> Fault | None:
        mean = _top(t) / (examples * ONE)
        if mean > self.max_value:
            found = f"a mean of {mean:.4g}, above {self.max_value:g}"
            return "ring-huge", f"{name} sums to {found}"
        return None

    def _norm_fault(self, tensors: list[Tensor]) -> Fault | None:
        norm = math.hypot(*(_norm(part) for part in _blocks(tensors)))
        near = 0.9 < norm / self.max_norm < 1.1
        if _exceeds(tensors, self.max_norm) if near else norm > self.max_norm:
            return "norm-huge", f"the norm is {norm:.5g}, above {self.max_norm:g}"
        if norm < TINY and _all_subnormal(tensors):
            return "subnormal", f"no number reaches {TINY:.2g}, but not all are 0"
        return None


def _top(t: Tensor) -> float:
    """Return the size of the largest number in ``t``; NaN if there is one."""
    low, high = torch.aminmax(t)
    return max(abs(low.item()), abs(high.item()))


def _blocks(tensors: list[Tensor]) -> Iterator[Tensor]:
    for t in tensors:
        if t.numel() <= BLOCK:
            yield t
        else:
            yield from torch.split(t.reshape(-1), BLOCK)


def _norm(t: Tensor) -> float:
    wide = torch.float64 if t.dtype == torch.float64 else torch.float32
    return float(torch.linalg.vector_norm(t, dtype=wide))


def _exceeds(tensors: list[Tensor], limit: float) -> bool:
    """Tell whether the norm is above ``limit``; the same on every machine."""
    total = 0
    for part in _blocks(tensors):
        scaled = part.double() * (GRAIN / limit)  # double() may not copy
        steps = scaled.to(torch.int64)  # towards 0
        total += int(steps.square_().sum())
    return total > GRAIN * GRAIN


def _all_subnormal(tensors: list[Tensor]) -> bool:
    return any(t.any() for t in tensors) and all(
        bool((t.abs() < TINY).all()) for t in tensors
    )
