"""What can be wrong with the parts of an update, apart from any limit.

Each function returns the first fault it finds as ``(kind, reason)``, or None: a
stable word for programs and a sentence for people. ``fedcore.gate`` adds limits.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedcore.names import fault_of, shown
from fedcore.params import Params

Fault = tuple[str, str]  # kind, reason


def peer_fault(peer: object) -> Fault | None:
    """Judge the name of the sender."""
    wrong = fault_of(peer)
    if wrong is None:
        return None
    kind = "peer-name" if isinstance(peer, str) else "peer-type"
    return kind, f"the peer name {shown(peer)} {wrong}"


def version_fault(version: object, asked: int, stale_after: int) -> Fault | None:
    """Judge the echoed version: it must be ``asked``, and worth folding still."""
    if type(version) is not int:
        return "version-type", f"the version is {shown(version)}, not an integer"
    if version < 0:
        return "version-negative", f"the version is {shown(version)}, below 0"
    if version > asked:
        return "version-future", f"version {shown(version)}, but {asked} was sent"
    if version < asked:
        return "version-old", f"version {version}, but {asked} was sent"
    if version < stale_after:
        return "stale", f"version {version} is older than {stale_after}"
    return None


def metric_fault(item: tuple[object, object]) -> Fault | None:
    """Judge one metric, a name and a number."""
    name, value = item
    wrong = fault_of(name)
    if wrong is not None:
        return "metric-name", f"the metric {shown(name)} {wrong}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "metric-type", f"the metric {shown(name)} is a {type(value).__name__}"
    if isinstance(value, float) and math.isnan(value):
        return "metric-nan", f"the metric {shown(name)} is NaN"
    if value in (math.inf, -math.inf):
        return "metric-infinite", f"the metric {shown(name)} is {value}"
    if abs(value) > 1e300:
        return "metric-huge", f"the metric {shown(name)} is above 1e300 in size"
    return None


def turn_fault(metrics: Mapping[str, float], asked: object) -> Fault | None:
    """Judge the turn (``fedcore.task.seed_for``) that an answer says it is of.

    A strategy may draw again what the peer drew, so the peer must not choose the name.
    """
    turn = metrics.get("turn", asked)
    if turn == asked:
        return None
    return "turn-other", f"turn {turn:g} reported, {shown(asked)} asked for"


def names_fault(payload: object, wanted: Params) -> Fault | None:
    """Judge the names of the tensors: they must be those of ``wanted``."""
    if not isinstance(payload, Mapping):
        return "payload-type", f"the payload is a {type(payload).__name__}, not a map"
    if payload.keys() == wanted.keys():
        return None
    if not payload:
        return "payload-empty", f"no tensors; {len(wanted)} were expected"
    odd = [name for name in payload if fault_of(name)]
    if odd:
        return "name-form", f"the tensor name {shown(odd[0])} {fault_of(odd[0])}"
    extra = [name for name in payload if name not in wanted]
    missing = [name for name in wanted if name not in payload]
    return _difference(extra, missing)


def _difference(extra: list[str], missing: list[str]) -> Fault:
    if not extra:
        return (
            "missing",
            f"{len(missing)} tensors are missing, {shown(missing[0])} first",
        )
    if not missing:
        return "extra", f"{len(extra)} tensors too many, {shown(extra[0])} first"
    pair = f"{shown(extra[0])} where {shown(missing[0])} was expected"
    if {n.casefold() for n in extra} == {n.casefold() for n in missing}:
        return "name-case", f"{pair}: upper and lower case count"
    return "renamed", f"{pair}; {len(extra)} unknown names, {len(missing)} missing"


def _is_ring(t: Tensor, like: Tensor) -> bool:
    return t.dtype == torch.int64 and like.is_floating_point()


def tensor_fault(name: str, t: object, like: Tensor, ring: bool) -> Fault | None:
    """Judge the form of one tensor, not its numbers; ``ring`` allows sums."""
    if not isinstance(t, Tensor):
        return "not-tensor", f"{name} is a {type(t).__name__}, not a tensor"
    if type(t) is not Tensor:  # a subclass may run its own code on every use
        return "subclass", f"{name} is a {type(t).__name__}, not a plain tensor"
    return next(_form_faults(name, t, like, ring), None)


def _form_faults(name: str, t: Tensor, like: Tensor, ring: bool) -> Iterator[Fault]:
    if t.is_quantized:
        yield "quantized", f"{name} is quantized ({t.dtype})"
    if t.layout != torch.strided:
        yield "layout", f"{name} is {t.layout}, not {torch.strided}"
    if t.device != like.device:
        yield "device", f"{name} is on {t.device}, not on {like.device}"
    if t.requires_grad:
        yield "requires-grad", f"{name} is part of a graph, not a plain number"
    if t.is_complex() and not like.is_complex():
        yield "complex", f"{name} is {t.dtype}, not {like.dtype}"
    if _is_ring(t, like) and not ring:
        yield "ring", f"{name} is a sum ({t.dtype}), but plain clients send none"
    if t.dtype != like.dtype and not _is_ring(t, like):
        yield "dtype", f"{name} is {t.dtype}, not {like.dtype}"
    if t.dim() != like.dim():
        yield "rank", f"{name} has {t.dim()} dimensions, not {like.dim()}"
    if t.shape != like.shape:
        yield "shape", f"{name} has shape {tuple(t.shape)}, not {tuple(like.shape)}"


def not_finite(name: str, t: Tensor) -> Fault:
    """Return the fault of ``t``, which holds a NaN or an infinity."""
    nans, infs = int(t.isnan().sum()), int(t.isinf().sum())
    of = f"of its {t.numel()} numbers"
    if nans:
        return "nan", f"{name}: {nans} {of} are NaN"
    return "infinite", f"{name}: {infs} {of} are infinite"
