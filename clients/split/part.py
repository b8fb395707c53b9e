"""One part of a model in training: its blocks, its weights, its rule.

Draws such as dropout's are named by peer, version, step and block, never by the
order in which parts happen to run. So they are the same wherever the cut is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from clients.trainers.method import seed_draws
from clients.trainers.rules import Rule
from fedcore.errors import ConfigError, ProtocolError
from fedcore.params import Params
from fedcore.seeds import seed_of

Moment = tuple[str, int, int]  # peer, version, step


@dataclass(frozen=True, slots=True)
class PartState:
    """A part between two steps, as it is stored.

    Attributes:
        tensors: weights and buffers, integers too.
        memory: what the rule remembers.
    """

    tensors: Params
    memory: Params


class Drawn(nn.Module):
    """Blocks in a row, each of which draws from its own seed.

    Attributes:
        first: place of the first block in the whole model.
        now: what the next pass belongs to.
    """

    def __init__(self, blocks: nn.Sequential, first: int) -> None:
        super().__init__()
        self.blocks, self.first = blocks, first
        self.now: Moment = ("", 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last block."""
        for place, block in enumerate(self.blocks, self.first):
            seed_draws(x.device, seed_of("draws", *self.now, place))
            x = block(x)
        return x


class Part:
    """Blocks that are trained on one side."""

    def __init__(
        self, blocks: nn.Sequential, first: int, rule: Rule, device: torch.device
    ) -> None:
        """Take ``blocks`` over; ``first`` is their place in the whole model."""
        self.run = Drawn(blocks.to(device).train(), first)
        self.rule, self.device = rule, device
        self.weights: list[Tensor] = [p for p in blocks.parameters() if p.requires_grad]

    def leaf(self, received: Tensor, pulls: bool) -> Tensor:
        """Return ``received`` on our device; with a gradient if it ``pulls``."""
        own = received.to(self.device)
        return own.requires_grad_() if pulls else own

    def step(self, grads: Sequence[Tensor]) -> None:
        """Move the weights along ``grads``; may overwrite them."""
        if self.weights:
            with torch.no_grad():
                self.rule.step(self.weights, list(grads))

    def params(self) -> Params:
        """Return copies of the floating-point tensors, by the model's names."""
        own = self.run.blocks.state_dict()
        return {
            name: t.detach().cpu().clone()
            for name, t in own.items()
            if t.is_floating_point()
        }

    def load(self, tensors: Params) -> None:
        """Take over those of ``tensors`` that are this part's own."""
        with torch.no_grad():
            for name, t in self.run.blocks.state_dict().items():
                if name in tensors:
                    t.copy_(tensors[name])

    def buffers(self) -> Params:
        """Return copies of what a forward pass changes, such as running means."""
        return {n: t.detach().clone() for n, t in self.run.blocks.named_buffers()}

    def state(self) -> PartState:
        """Return what ``restore`` needs to go on from here with the same bits."""
        own = self.run.blocks.state_dict()
        tensors = {name: t.detach().cpu().clone() for name, t in own.items()}
        return PartState(tensors, memory_of(self.rule))

    def restore(self, state: PartState) -> None:
        """Go back, or on, to ``state``.

        Raises:
            ConfigError: it is the state of another part, or of another rule.
        """
        own = self.run.blocks.state_dict()
        if _shapes(own) != _shapes(state.tensors):
            raise ConfigError(
                "what the folder keeps is not this part of this model: cut where it "
                "was cut before, or name another folder"
            )
        self.load(state.tensors)
        recall(self.rule, state.memory, self.device)


def writable(leaf: Tensor) -> Tensor:
    """Return ``leaf`` so that a first block that works in place may overwrite it."""
    return leaf.clone() if leaf.requires_grad else leaf


def slopes(y: Tensor, wanted: Sequence[Tensor], dy: Tensor | None) -> list[Tensor]:
    """Return the gradients of ``y`` for ``wanted``; ``dy`` is its own, None for 1.

    Raises:
        ProtocolError: one is not finite.
    """
    if not wanted or not y.requires_grad:
        return [torch.zeros_like(w) for w in wanted]
    grads = torch.autograd.grad(
        y, wanted, dy, allow_unused=True, materialize_grads=True
    )
    if not all(bool(g.isfinite().all()) for g in grads):
        raise ProtocolError("a gradient is not finite")
    return list(grads)


def _shapes(tensors: Params) -> Mapping[str, torch.Size]:
    return {name: t.shape for name, t in tensors.items()}


def memory_of(rule: Rule) -> Params:
    """Return what ``rule`` remembers, as tensors."""
    found: dict[str, Tensor] = {}
    for name, value in _memories(rule).items():
        if isinstance(value, int):
            found[name] = torch.tensor(value)
        else:
            found |= {f"{name}.{i}": t.cpu().clone() for i, t in enumerate(value)}
    return found


def recall(rule: Rule, memory: Params, device: torch.device) -> None:
    """Give ``rule`` the memory that ``memory_of`` returned.

    Raises:
        ConfigError: another kind of rule remembered that.
    """
    found = {key.partition(".")[0] for key in memory}
    counts = {name for name, v in _memories(rule).items() if isinstance(v, int)}
    if not counts <= found <= _memories(rule).keys():
        raise ConfigError(
            "what the folder keeps was trained by another rule: set trainer.name as "
            "it was before, or name another folder"
        )
    for name, value in _memories(rule).items():
        if isinstance(value, int):
            setattr(rule, name, int(memory[name]))
        else:
            count = sum(key.startswith(f"{name}.") for key in memory)
            copies = [memory[f"{name}.{i}"].to(device, copy=True) for i in range(count)]
            setattr(rule, name, copies)


def _memories(rule: Rule) -> Mapping[str, int | list[Tensor]]:
    """Return the fields of ``rule`` that change: counts of steps, lists of tensors."""
    values = {f.name: getattr(rule, f.name) for f in fields(rule)}  # type: ignore[arg-type]
    return {n: v for n, v in values.items() if n == "steps" or isinstance(v, list)}
