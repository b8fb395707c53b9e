"""Refusal of data sets that cannot be trained on, before any training starts.

What a user's own code raises is caught here, at its border, and told as a
``ConfigError`` with the line that raised it.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedcore.errors import ConfigError, FedError

if TYPE_CHECKING:
    from clients.tasks.dataset import Dataset

PROBE_ROWS = 2  # enough to see whether the model takes a batch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block; put its state back after it."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def users_code(doing: str, fix: str) -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into a ``ConfigError``."""
    try:
        yield
    except FedError:
        raise
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}" if str(error) else repr(error)
        raise ConfigError(f"{doing}: {cause} ({raised_at(error)}). {fix}") from error


def raised_at(error: BaseException) -> str:
    """Return ``file:line`` of where ``error`` was raised, outside torch if possible."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def check(data: "Dataset") -> nn.Module:
    """Return a model of ``data`` after trying it on a few rows.

    Raises:
        ConfigError: the examples, the model, the loss or a metric do not fit.
    """
    for name, pair in (("train", data.train), ("test", data.test)):
        _check_examples(f"task {data.name!r}: {name}", pair)
    _check_groups(data)
    _check_public(data)
    if data.batch_size < 1:
        raise ConfigError(
            f"task {data.name!r}: batch_size is {data.batch_size}, not >= 1"
        )
    model = _built(data)
    for pair in (data.train, data.test):
        _check_model(data, model, *(t[:PROBE_ROWS] for t in pair))
    return model


def _check_examples(what: str, pair: tuple[Tensor, Tensor]) -> None:
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise ConfigError(f"{what} must be a pair (x, y), not {type(pair).__name__}")
    for name, t in zip("xy", pair, strict=True):
        _check_tensor(f"{what} {name}", t)
    x, y = pair
    if len(x) != len(y):
        raise ConfigError(
            f"{what} x has {len(x)} rows but y has {len(y)}: give one target per row"
        )


def _check_tensor(what: str, t: Tensor) -> None:
    if not isinstance(t, Tensor):
        found = type(t).__name__
        raise ConfigError(
            f"{what} is a {found}, not a torch.Tensor: use torch.as_tensor"
        )
    if t.ndim == 0 or len(t) == 0:
        raise ConfigError(
            f"{what} has shape {tuple(t.shape)}: it needs at least one row"
        )
    if t.is_floating_point() and not _finite(t):
        raise ConfigError(f"{what} holds NaN or infinite numbers: clean them first")


def _finite(t: Tensor) -> bool:
    """Return whether all of ``t`` is finite; a finite sum says so ten times faster."""
    return bool(t.sum().isfinite()) or bool(t.isfinite().all())


def _check_groups(data: "Dataset") -> None:
    for name, groups, pair in (
        ("groups", data.groups, data.train),
        ("test_groups", data.test_groups, data.test),
    ):
        shape = getattr(groups, "shape", type(groups).__name__)
        if groups is not None and shape != (len(pair[0]),):
            raise ConfigError(
                f"task {data.name!r}: {name} has shape {shape}, "
                f"not one owner for each of {len(pair[0])} rows"
            )


def _check_public(data: "Dataset") -> None:
    if data.public is None:
        return
    _check_tensor(f"task {data.name!r}: public", data.public)
    like = data.train[0]
    if data.public.shape[1:] != like.shape[1:] or data.public.dtype != like.dtype:
        raise ConfigError(
            f"task {data.name!r}: public inputs are {tuple(data.public.shape[1:])}, "
            f"{data.public.dtype}, not as the training inputs, "
            f"{tuple(like.shape[1:])}, {like.dtype}"
        )


def _built(data: "Dataset") -> nn.Module:
    fix = "Make `model` a function without arguments that returns a torch.nn.Module."
    with users_code(f"task {data.name!r}: model() failed", fix), seeded(0):
        model = data.model()
    if not isinstance(model, nn.Module):
        found = type(model).__name__
        raise ConfigError(f"task {data.name!r}: model() returned a {found}. {fix}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"task {data.name!r}: the model has no parameter to train")
    return model


def _check_model(data: "Dataset", model: nn.Module, x: Tensor, y: Tensor) -> None:
    where = f"task {data.name!r}"
    model.eval()  # a batch norm would count the probe, and refuses a single row
    with torch.no_grad():
        with users_code(
            f"{where}: the model cannot take x of shape {tuple(x.shape)}, {x.dtype}",
            "Change the model's first layer or the shape of x.",
        ):
            outputs = model(x)
        if not isinstance(outputs, Tensor):
            found = type(outputs).__name__
            raise ConfigError(f"{where}: the model returns a {found}, not one tensor")
        _check_classes(data, outputs)
        _check_figures(data, outputs, y)
    model.train()


def _check_classes(data: "Dataset", outputs: Tensor) -> None:
    """Refuse class numbers that the model has no output for."""
    counts = data.loss is cross_entropy or "accuracy" in data.metrics
    if not counts or outputs.ndim < 2:
        return
    classes = outputs.shape[1]
    for _, y in (data.train, data.test):
        low, high = int(y.min()), int(y.max())
        if not y.is_floating_point() and (low < 0 or high >= classes):
            raise ConfigError(
                f"task {data.name!r}: targets run from {low} to {high}, but the model "
                f"has {classes} outputs, for classes 0 to {classes - 1}"
            )


def _check_figures(data: "Dataset", outputs: Tensor, y: Tensor) -> None:
    for name, figure in {"loss": data.loss, **data.metrics}.items():
        with users_code(
            f"task {data.name!r}: {name} cannot take outputs of shape "
            f"{tuple(outputs.shape)} with targets of shape {tuple(y.shape)}, {y.dtype}",
            f"Give a `{'loss' if name == 'loss' else 'metrics'}` that fits them.",
        ):
            value = figure(outputs, y)
        if not isinstance(value, Tensor) or value.shape != ():
            raise ConfigError(
                f"task {data.name!r}: {name} must return a mean of shape (), "
                f"not {getattr(value, 'shape', type(value).__name__)}"
            )
