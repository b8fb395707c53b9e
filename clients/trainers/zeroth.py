"""The duty ``zeroth``: train by forward passes alone, along directions of a pool.

Source:
    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (MeZO),
    NeurIPS 2023, Algorithm 1. https://arxiv.org/abs/2305.17333

Notation, paper -> here:
    θ ± ε z            ``walk.at(k, ±eps)``
    ℓ+, ℓ-             ``high``, ``low``
    projected_grad     one of ``Trail.values``
    θ - η g z          ``walk.move(k, amount)``, amount an integer in units of 2^-32

Nothing is kept for a backward pass, and a probe is made again from integers instead
of being taken back: memory is that of inference, and nothing drifts. The model is in
evaluation mode, on one thread, so that two losses differ by the probe alone.

A peer walks by what its answer says, after rounding, not by what it measured. A probe
whose losses are not both finite moves nothing, and is counted (``skipped``), as is
one that was cut at ``clip`` (``cut``).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import isfinite
from typing import Self

import torch
from torch import Tensor, nn

from clients.trainers.asking import Asked, asked, turn_of
from clients.trainers.autograd import check_fit, on_device
from clients.trainers.method import Method, device_of, reproducible
from clients.trainers.rules import Rule
from fedcore import onebyte, ring
from fedcore.errors import ConfigError
from fedcore.params import Params
from fedcore.pool import Walk, walk
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Batch, Task, load, seed_for
from strategies.buffers import weights_of
from strategies.one_byte import meant
from strategies.seeded import divided, spread

REDRAWN = ("bytes", "scalars")  # answers to which the server draws the directions


def zeroth(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Probe and walk; return what the work asks to be told of it.

    Raises:
        ProtocolError: the work does not fit the task's model, or asks for what
            cannot be.
        ConfigError: two weights of the model are one tensor.
    """
    ask = asked(task, work, peer)
    steps = len(ask.which) // ask.directions
    noise = _noise(ask, work, peer)
    with reproducible(), torch.no_grad():
        model = task.model().to(device_of(method.device)).eval()
        check_fit(model.state_dict(), work, peer)
        load(model, work.params)
        way = _walk(model, work, ask)
        batches = islice(task.batches(seed_for("batches", peer, work)), steps)
        trail = _trail(partial(_loss, task, model), way, ask, batches, noise)
    told = {"steps": float(steps), **trail.told}
    if ask.answer in REDRAWN and (turn := turn_of(work, peer)):
        told["turn"] = float(turn)
    return Update(peer, work.version, _payload(ask, trail), task.examples, told)


@dataclass(slots=True)
class Trail:
    """What was found, probe by probe; filled in as the walk goes on.

    Attributes:
        values: scalars, float32 (n,); 0 for a probe that was skipped.
        codes: the same as bytes, uint8 (n,); for answers in bytes.
        amounts: how far the model went, int64 (n,), unit 2^-32.
        counted: which probes were not skipped, bool (n,).
        loss: sum of the losses of those, at w + ε z and w - ε z in the mean.
        cut: how many were larger than can be told.
    """

    values: Tensor
    codes: Tensor
    amounts: Tensor
    counted: Tensor
    loss: float = 0.0
    cut: int = 0

    @classmethod
    def of(cls, count: int) -> Self:
        """Return the trail of ``count`` probes before the first."""
        none = torch.zeros(count)
        return cls(none, none.byte(), none.long(), none.bool())

    def note(self, i: int, ends: tuple[float, float], ask: Asked) -> None:
        """Take in the losses at both ends of probe ``i``."""
        high, low = ends
        slope = (high - low) / (2 * ask.eps)
        if not isfinite(slope):
            return
        self.counted[i] = True
        self.loss += (high + low) / 2
        self.cut += abs(slope) > ask.clip
        self.values[i] = max(-ask.clip, min(ask.clip, slope))

    @property
    def told(self) -> Mapping[str, float]:
        """The figures that go with the answer."""
        good = int(self.counted.sum())
        skipped = len(self.counted) - good
        told = {"skipped": float(skipped), "cut": float(self.cut)}
        mean = {"loss": self.loss / good} if good else {}
        return {**mean, **{name: count for name, count in told.items() if count}}


def _trail(
    loss: Callable[[Batch], float],
    way: Walk,
    ask: Asked,
    batches: Iterator[Batch],
    noise: Tensor,
) -> Trail:
    """Take one step per batch and return what was found on the way."""
    trail = Trail.of(len(ask.which))
    for step, batch in enumerate(batches):
        now = range(step * ask.directions, (step + 1) * ask.directions)
        for i in now:
            trail.note(i, _ends(loss, way, int(ask.which[i]), ask.eps, batch), ask)
        _decide(trail, slice(now.start, now.stop), ask, noise)
        for i in now:
            way.move(int(ask.which[i]), int(trail.amounts[i]))
    return trail


def _ends(
    loss: Callable[[Batch], float], way: Walk, k: int, eps: float, batch: Batch
) -> tuple[float, float]:
    """Return the losses at ``here + eps z_k`` and ``here - eps z_k``."""
    way.at(k, eps)
    high = loss(batch)
    way.at(k, -eps)
    return high, loss(batch)


def _decide(trail: Trail, now: slice, ask: Asked, noise: Tensor) -> None:
    """Say how far the model goes for the probes ``now``, as the server will read it."""
    values = trail.values[now]
    if ask.answer == "bytes":
        coded = onebyte.encode(values, ask.sigma, noise[now])
        trail.codes[now] = coded.codes
        trail.cut += coded.saturated
        amounts, _ = meant(coded.codes, ask.sigma, ask.clip, ask.share)
    else:
        amounts = divided(ring.encode(values), ask.share)
    trail.amounts[now] = amounts


def _payload(ask: Asked, trail: Trail) -> Params:
    """Return what the work asks to be told."""
    if ask.answer == "bytes":
        return {"bytes": trail.codes}
    if ask.answer == "scalars":
        return {"scalars": trail.values}
    payload = {"coefficients": _sums(trail.amounts, ask)}
    if ask.answer == "weighed":
        payload["sizes"] = _sums(ring.encode(trail.values.abs()), ask)
        payload["counts"] = _sums(trail.counted.long() * ring.ONE, ask)
    return payload


def _sums(amounts: Tensor, ask: Asked) -> Tensor:
    """Return the sum for each direction as real numbers, float32 (K,)."""
    whole = spread(ask.which, amounts, ask.pool.size)
    return ring.decode(whole, dtype=torch.float32)


def _noise(ask: Asked, work: Work, peer: PeerId) -> Tensor:
    """Return what rounds each scalar to a byte, float64 (n,); nothing where none is."""
    count = len(ask.which) if ask.answer == "bytes" else 0
    return onebyte.draws(count, "byte", peer, work.version, turn_of(work, peer))


def _walk(model: nn.Module, work: Work, ask: Asked) -> Walk:
    """Return the walk of the model's own weights, from where the work says."""
    own = model.state_dict()
    weights = weights_of(work.params)
    target = {name: own[name] for name in weights}
    _check_apart(target)
    start = {name: t.to(target[name].device) for name, t in weights.items()}
    return walk(ask.pool, target, start, ask.coefficients, ask.scale)


def _check_apart(target: Params) -> None:
    """Refuse two names for one tensor: it cannot go along two directions."""
    seen: dict[int, str] = {}
    for name, t in target.items():
        first = seen.setdefault(t.data_ptr(), name) if t.numel() else name
        if first != name:
            raise ConfigError(
                f"{first!r} and {name!r} are one tensor of the model: leave one name "
                "out of its state_dict"
            )


def _loss(task: Task, model: nn.Module, batch: Batch) -> float:
    device = next(model.parameters()).device
    return float(task.loss(model, on_device(batch, device)))
