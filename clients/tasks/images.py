"""MNIST and Fashion-MNIST, whole: 60 000 + 10 000 grey images of 28 x 28 pixels."""

import torch

from clients.tasks.dataset import Dataset, Examples
from clients.tasks.idx import read_idx
from clients.tasks.models import for_images
from clients.tasks.store import default_folder, found
from fedcore.errors import ConfigError, StorageError

SHAPES = {"train": (60_000, 28, 28), "t10k": (10_000, 28, 28)}


def mnist(
    *, model: str = "mlp", hidden: int = 128, batch_size: int = 32, data_dir: str = ""
) -> Dataset:
    """Return MNIST: handwritten digits, ten classes.

    Args:
        model: ``"mlp"``, ``"cnn"`` or ``"linear"``.
        hidden: hidden units of the mlp, >= 1.
        batch_size: rows per training batch, >= 1.
        data_dir: where ``fedcore data get`` put it; "" for the user's own folder.

    Source: LeCun, Cortes & Burges, the MNIST database.
    """
    return _images("mnist", model, hidden, batch_size, data_dir)


def fashion_mnist(
    *, model: str = "mlp", hidden: int = 128, batch_size: int = 32, data_dir: str = ""
) -> Dataset:
    """Return Fashion-MNIST: articles of clothing, ten classes.

    Args:
        model: ``"mlp"``, ``"cnn"`` or ``"linear"``.
        hidden: hidden units of the mlp, >= 1.
        batch_size: rows per training batch, >= 1.
        data_dir: where ``fedcore data get`` put it; "" for the user's own folder.
            The folder of the Debian package is looked into as well.

    Source: Xiao, Rasul & Vollgraf 2017, https://arxiv.org/abs/1708.07747
    """
    return _images("fashion-mnist", model, hidden, batch_size, data_dir)


def _images(
    name: str, model: str, hidden: int, batch_size: int, data_dir: str
) -> Dataset:
    train, test = (_part(name, part, data_dir) for part in ("train", "t10k"))
    factory = for_images(model, 28, 10, hidden)
    return Dataset(name, train, test, factory, batch_size=batch_size)


def _part(name: str, part: str, data_dir: str) -> Examples:
    """Return images (n, 1, 28, 28) of 0.0 to 1.0 and classes (n,)."""
    paths = found(name, data_dir)
    if paths is None:
        raise ConfigError(
            f"the data of task {name!r} are not in {data_dir or default_folder()}: "
            f"run `fedcore data get {name}{f' --dir {data_dir}' if data_dir else ''}`"
        )
    x = read_idx(paths[f"{part}-images-idx3-ubyte"])
    y = read_idx(paths[f"{part}-labels-idx1-ubyte"])
    if x.shape != SHAPES[part] or y.shape != x.shape[:1] or y.max() > 9:
        raise StorageError(
            f"{paths[f'{part}-images-idx3-ubyte']} holds images of shape {x.shape} "
            f"with labels of shape {y.shape}, which is not {name}: fetch it again"
        )
    pixels = torch.from_numpy(x.astype("float32")).div_(255).unsqueeze(1)
    return pixels, torch.from_numpy(y.astype("int64"))
