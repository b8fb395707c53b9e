"""The examples of the simulation benchmark: MNIST if it is here, else a stand-in."""

import numpy as np

from fedcore.errors import ConfigError, StorageError
from sims.bench.case import Data, Floats, Ints

MNIST = "MNIST"
STAND_IN = "drawn images of MNIST's shape (`fedcore data get mnist` for the real ones)"


def images() -> tuple[Data, str]:
    """Return 60 000 + 10 000 images in random order, and what they are."""
    try:
        return shuffled(mnist()), MNIST
    except (ConfigError, StorageError):
        return drawn(60_000, 10_000, 784, sharpness=0.11), STAND_IN


def mnist() -> Data:
    """Return MNIST as arrays.

    Raises:
        ConfigError: it is not installed.
    """
    from clients.tasks import load_task

    whole = load_task("mnist")
    (x, y), (test_x, test_y) = whole.train, whole.test
    flat = (x.flatten(1).numpy(), y.numpy(), test_x.flatten(1).numpy(), test_y.numpy())
    return Data(*flat)


def digits() -> Data:
    """Return scikit-learn's 1797 digits of 8 x 8 pixels, a sixth of them held out."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = (bunch.data / 16).astype(np.float32), bunch.target.astype(np.int64)
    return shuffled(Data(x[:1500], y[:1500], x[1500:], y[1500:]))


def shuffled(data: Data) -> Data:
    """Return ``data`` with its training rows in random order: shares are IID."""
    order = np.random.Generator(np.random.Philox(key=1)).permutation(len(data.x))
    return Data(data.x[order], data.y[order], data.test_x, data.test_y)


def drawn(rows: int, test_rows: int, inputs: int, sharpness: float) -> Data:
    """Return ten classes of noisy images in [0, 1].

    Args:
        rows: training rows.
        test_rows: held-out rows.
        inputs: numbers per row.
        sharpness: how far the classes lie apart, against noise of 1.
    """
    generator = np.random.Generator(np.random.Philox(key=2))
    centres = generator.standard_normal((10, inputs), dtype=np.float32)

    def part(count: int) -> tuple[Floats, Ints]:
        y = generator.integers(0, 10, count)
        noise = generator.standard_normal((count, inputs), dtype=np.float32)
        x = 0.5 + 0.2 * (sharpness * 2 * centres[y] + noise)
        return np.clip(x, 0.0, 1.0).astype(np.float32), y.astype(np.int64)

    return Data(*part(rows), *part(test_rows))
