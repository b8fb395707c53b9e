"""Where a model is cut, and the parts that come of it."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import nn

from fedcore.errors import ConfigError

Blocks = Mapping[str, nn.Module]  # in the order in which a model applies them


@dataclass(frozen=True, slots=True)
class Cut:
    """How many blocks of a model stay with the client.

    Attributes:
        at: first blocks, the front, >= 0; with 0 the client sends its inputs.
        head: last blocks, >= 0. With 1 or more the cut has the shape of a U: the
            client computes the loss, and labels never leave it. With 0 the server
            computes it, and labels go there.
    """

    at: int
    head: int = 0

    def __post_init__(self) -> None:
        if self.at < 0 or self.head < 0:
            raise ConfigError(f"a cut needs at >= 0 and head >= 0: {self}")


def blocks_of(model: nn.Module) -> Blocks:
    """Return the blocks of ``model``: it is a Sequential, or offers ``blocks()``.

    ``blocks()`` returns modules by name, in order; applied one after the other they
    are the model, and their tensors have the names that the model gives them.

    Raises:
        ConfigError: it is neither, or its blocks are not the whole model.
    """
    offered = getattr(model, "blocks", None)
    if callable(offered) and not isinstance(offered, nn.Module):
        found = dict(offered())
    elif isinstance(model, nn.Sequential):
        found = {name: m for name, m in model._modules.items() if m is not None}
    else:
        raise ConfigError(
            f"a {type(model).__name__} cannot be cut: make it an nn.Sequential, or "
            "give it a method blocks() that returns its modules by name, in order"
        )
    odd = set(model.state_dict()) ^ set(_joined(found.items()).state_dict())
    if odd:
        raise ConfigError(
            f"the blocks of {type(model).__name__} are not the whole model: "
            f"{min(odd)!r} is on one side only"
        )
    return found


def parts_of(model: nn.Module, cut: Cut) -> tuple[nn.Sequential, ...]:
    """Return front, back and head of ``model``, each with the model's own names.

    Raises:
        ConfigError: the model has fewer blocks than the cut, or a weight that would
            be on both sides.
    """
    blocks = list(blocks_of(model).items())
    end = len(blocks) - cut.head
    if cut.at > end:
        raise ConfigError(
            f"the model has {len(blocks)} blocks; at + head must not exceed that: {cut}"
        )
    ends = ((0, cut.at), (cut.at, end), (end, len(blocks)))
    parts = tuple(_joined(islice(blocks, *each)) for each in ends)
    _check_untied(parts)
    return parts


def _joined(blocks: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(blocks))


def _check_untied(parts: Sequence[nn.Module]) -> None:
    seen: dict[int, str] = {}
    for part in parts:
        own = dict(part.named_parameters())
        for name, weight in own.items():
            if id(weight) in seen:
                raise ConfigError(
                    f"{name!r} and {seen[id(weight)]!r} are one weight, and this cut "
                    "would train it on both sides: cut elsewhere"
                )
        seen |= {id(weight): name for name, weight in own.items()}
