"""Offsite tuning: clients train the ends of a model without having its middle.

The first and the last layers are *adapters*, and are trained. Of the layers between,
clients get only some, evenly chosen and frozen: the *emulator*. What they learn on it
is put back into the whole model. So its owner keeps layers to itself, and clients need
less memory and time.

Source:
    Xiao, Lin, Han, "Offsite-Tuning: Transfer Learning without Full Model", 2023.
    https://arxiv.org/abs/2302.04870

Notation, paper -> here:
    A_1, A_2     adapters: first, last layers  ``Ends.first``, ``Ends.last``
    E, E*        middle, and its emulator      layers between; some of them
    NLayer       uniform choice of layers      ``kept``
    plug-in      A_1', E, A_2'                 ``whole``

Departures: the emulator is what is left of the layers; it is not distilled.

Trained tensors are called by their end (``first.0``, ``last.0``), not by the number of
their layer, so they have the same names whatever lies between.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clients.tasks.dataset import Measure
from clients.tasks.lm.models import Pretrained, quiet
from clients.tasks.lm.net import NextToken, Sharing, shallow
from fedcore.errors import ConfigError
from fedcore.task import load, params_of


@dataclass(frozen=True, slots=True)
class Offsite:
    """Which layers are trained, and which are left between them.

    Attributes:
        share: of the layers between, that clients get, in (0, 1].
        ends: layers at each end that are trained, >= 1.

    Raises:
        ConfigError: a number is out of its range.
    """

    share: float
    ends: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"task.offsite is {self.share}, but must be the share of the middle "
                "layers that clients get, above 0 and at most 1; 0 is no offsite tuning"
            )
        if self.ends < 1:
            raise ConfigError(f"task.ends is {self.ends}, but must be at least 1")

    def layers(self, count: int) -> list[int]:
        """Return which of ``count`` layers clients get, in order.

        Raises:
            ConfigError: there are no layers between the ends.
        """
        between = count - 2 * self.ends
        if between < 1:
            raise ConfigError(
                f"the model has {count} layers, and task.ends = {self.ends} at both "
                "ends leaves none between: lower task.ends, or take a deeper model"
            )
        middle = [self.ends + i for i in kept(between, self.share)]
        last = range(count - self.ends, count)
        return [*range(self.ends), *middle, *last]


def kept(count: int, share: float) -> list[int]:
    """Return which of ``count`` layers stay: evenly spaced, at least one."""
    left = max(1, round(share * count))
    return [(2 * i + 1) * count // (2 * left) for i in range(left)]


class Ends(nn.Module):
    """A next-token model whose first and last layers have names of their own.

    Args:
        core: a Hugging Face causal model.
        ends: layers at each end, which it trains.
    """

    def __init__(self, core: nn.Module, ends: int) -> None:
        super().__init__()
        layers = layers_of(core)[1]
        self.first = nn.ModuleList(layers[:ends])
        self.last = nn.ModuleList(layers[-ends:])
        self.inner = NextToken(core)  # after the ends: the first name counts

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each next token, (n, vocabulary, positions)."""
        scores: Tensor = self.inner(x)
        return scores


def emulator(model: Pretrained, offsite: Offsite) -> nn.Module:
    """Return a model of its own with the layers that clients get."""
    count = len(layers_of(model.core)[1])
    return _with_layers(model, offsite.layers(count), offsite.ends)


def whole(model: Pretrained, offsite: Offsite) -> nn.Module:
    """Return a model of its own with all layers, trained where the emulator is."""
    count = len(layers_of(model.core)[1])
    offsite.layers(count)  # checks them
    return _with_layers(model, range(count), offsite.ends)


def layers_of(core: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the layers of ``core``: the longest list in it.

    Raises:
        ConfigError: there is none.
    """
    lists = [(n, m) for n, m in core.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ConfigError(f"task.offsite: {type(core).__name__} has no list of layers")
    return max(lists, key=lambda pair: len(pair[1]))


def _with_layers(model: Pretrained, chosen: Sequence[int], ends: int) -> nn.Module:
    core = reduced(model.core, chosen)
    layers = layers_of(core)[1]
    for i in {*range(ends), *range(len(layers) - ends, len(layers))}:
        layers[i] = deepcopy(layers[i]).requires_grad_(True)
    return Sharing(Ends(core, ends))


def reduced(core: nn.Module, chosen: Sequence[int]) -> nn.Module:
    """Return ``core`` with the layers ``chosen`` only; weights are shared with it."""
    name, layers = layers_of(core)
    parent, _, leaf = name.rpartition(".")
    copy = shallow(core)
    own = layers_of(copy)[1]
    setattr(copy.get_submodule(parent), leaf, nn.ModuleList(own[i] for i in chosen))
    _say(copy, chosen, len(layers))
    return copy


def _say(core: Any, chosen: Sequence[int], count: int) -> None:
    """Write the layers ``chosen`` of ``count`` into the settings of ``core``."""
    old, new = core.config, deepcopy(core.config)
    new.num_hidden_layers = len(chosen)
    kinds = getattr(new, "layer_types", None)
    if kinds is not None and len(kinds) == count:
        new.layer_types = [kinds[i] for i in chosen]
    for module in core.modules():
        if getattr(module, "config", None) is old:
            module.config = new
    for place, layer in enumerate(layers_of(core)[1]):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.__dict__["layer_idx"] = place


@dataclass(frozen=True)
class PluggedIn:
    """Evaluates what was learned on an emulator in the whole model.

    Figures are those of the whole model; ``emulator_loss`` and so on are those of what
    clients have.

    Attributes:
        figures: evaluates one model.
        model: the whole one, before training.
        offsite: how it is cut.
    """

    figures: Measure
    model: Pretrained
    offsite: Offsite

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, float]:
        """Return the figures of ``model``, an emulator, in and out of the whole."""
        outside = self.figures(model, x, y)
        told = {f"emulator_{n}": f for n, f in outside.items() if n != "examples"}
        return {**self.figures(self.full(model), x, y), **told}

    def full(self, model: nn.Module) -> nn.Module:
        """Return the whole model with what ``model``, an emulator, has learned.

        It is the same object each time, overwritten by the next call.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        return load(self._whole.to(device), params_of(model))

    @cached_property
    def _whole(self) -> nn.Module:
        return whole(self.model, self.offsite)


def write_emulator(model: Pretrained, offsite: Offsite, folder: Path) -> None:
    """Write what clients get as a folder in Hugging Face's format.

    A client takes it with ``task.model=./folder task.offsite=1``: all that lies between
    its ends stays. It answers with the same tensors as if it had cut the model itself.

    Raises:
        ConfigError: there are no layers between the ends.
    """
    count = len(layers_of(model.core)[1])
    core: Any = reduced(model.core, offsite.layers(count))
    with quiet():
        core.save_pretrained(folder)
    model.words.tokenizer.save(str(folder / "tokenizer.json"))
