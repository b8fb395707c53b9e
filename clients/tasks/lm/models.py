"""Which pretrained models there are, and reading one from this machine.

A model is a name of ``NAMED`` or the path of a folder in Hugging Face's format. Code
in a folder is never run, weights are read from safetensors only, and nothing is asked
of any network.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clients.tasks.checks import seeded, users_code
from clients.tasks.lm.fetch import WHEELS, kept
from clients.tasks.lm.glass import glass, glass_words
from clients.tasks.lm.words import Words, words_in
from fedcore.config import nearest
from fedcore.errors import ConfigError

GLASS = {"glass": "en", "glass-pt": "pt"}
NAMED = (*GLASS, *WHEELS)
NEEDED = ("transformers", "tokenizers", "peft")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Files = tuple[tuple[str, int], ...]  # path and time of the last change
FIX = "Give a folder that `save_pretrained` wrote, with safetensors."


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model that is read, and never written into: all of it is frozen.

    Attributes:
        core: the Hugging Face model.
        words: its tokenizer.
        context: positions that it takes at most.
        own_head: whether it is a classifier with a trained head.
    """

    core: nn.Module
    words: Words
    context: int
    own_head: bool = False


def causal(
    model: str, dtype: str = "float32", checkpointing: bool = False
) -> Pretrained:
    """Return the causal language model ``model``, the same object when asked again.

    Args:
        model: a name of ``NAMED``, or a folder's path: anything with a slash.
        dtype: a name of ``DTYPES``.
        checkpointing: compute activations again in the backward pass, to save memory.

    Raises:
        ConfigError: there is no such model, or it cannot be read.
    """
    return _causal(model, dtype, checkpointing, _state(model))


def encoder(
    model: str, dtype: str = "float32", checkpointing: bool = False
) -> Pretrained:
    """Return ``model`` for classification: with its own head if it has one.

    Raises:
        ConfigError: there is no such model, or it cannot be read.
    """
    return _encoder(model, dtype, checkpointing, _state(model))


def _state(model: str) -> Files:
    """Return what tells whether the files of ``model`` were changed."""
    if model in GLASS:
        return ()
    files = [p for p in folder_of(model).iterdir() if p.is_file()]
    return tuple(sorted((str(p), p.stat().st_mtime_ns) for p in files))


@lru_cache(maxsize=2)
def _causal(model: str, dtype: str, checkpointing: bool, state: Files) -> Pretrained:
    if model in GLASS:
        with quiet():
            core, words = glass(GLASS[model]), glass_words(GLASS[model])
        core = core.to(_dtype(dtype))
    else:
        folder = folder_of(model)
        core = _read(folder, "AutoModelForCausalLM", dtype)
        words = words_in(folder)
    return _ready(core, words, checkpointing)


@lru_cache(maxsize=2)
def _encoder(model: str, dtype: str, checkpointing: bool, state: Files) -> Pretrained:
    if model in GLASS:
        whole = _causal(model, dtype, checkpointing, state)
        body: Any = whole.core.model
        return Pretrained(body, whole.words, whole.context)
    folder = folder_of(model)
    own = _has_head(folder)
    kind = "AutoModelForSequenceClassification" if own else "AutoModel"
    core = _read(folder, kind, dtype)
    return _ready(core, words_in(folder), checkpointing, own)


def folder_of(model: str) -> Path:
    """Return the folder of ``model``, in Hugging Face's format.

    Raises:
        ConfigError: there is no such name or folder.
    """
    if model in WHEELS:
        return kept(model)
    path = Path(model).expanduser()
    if "/" not in model:
        raise ConfigError(
            f"no model {model!r}; {nearest(model, NAMED)}; a model of your own is the "
            "path of its folder, such as ./model"
        )
    if not (path / "config.json").is_file():
        raise ConfigError(f"the model {model} is no folder with a config.json. {FIX}")
    return path


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"no dtype {name!r}; {nearest(name, DTYPES)}")
    return DTYPES[name]


def _has_head(folder: Path) -> bool:
    with users_code(f"{folder}/config.json cannot be read", FIX):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds = config.get("architectures") or [""]
        return str(kinds[0]).endswith("ForSequenceClassification")


def _read(folder: Path, kind: str, dtype: str) -> nn.Module:
    """Return the model in ``folder`` as Hugging Face's class ``kind`` reads it.

    Weights that its file lacks would be drawn at random, without a word, and in every
    process others. Only the pooler of BERT, which we do not use, may be missing.
    """
    wanted = _dtype(dtype)
    transformers = libraries()
    said = f"the model in {folder} cannot be loaded"
    model: nn.Module
    with users_code(said, FIX), quiet(), seeded(0):
        model, told = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=wanted,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    missing = sorted(n for n in told["missing_keys"] if not n.startswith("pooler."))
    if missing:
        names = ", ".join(missing[:3])
        raise ConfigError(f"{said}: its file lacks {len(missing)} weights: {names}")
    return model


def libraries() -> Any:
    """Return the module transformers, which takes seconds to import.

    Raises:
        ConfigError: it, or what goes with it, is not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"language models need the packages {', '.join(NEEDED)}, and "
            f"{', '.join(missing)} is missing: run `pip install 'fedcore[lm]'`"
        )
    import transformers

    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing progress bars and advice inside the block."""
    logging = libraries().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _ready(
    core: nn.Module, words: Words, checkpointing: bool, own_head: bool = False
) -> Pretrained:
    """Check the vocabulary, and set what is the same for all copies."""
    config: Any = core.config
    if words.size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {words.size} tokens, but its model only knows "
            f"{config.vocab_size}: they do not belong together"
        )
    if max(words.pad, words.end or 0) >= config.vocab_size:
        raise ConfigError(
            f"the model ends texts with token {words.end} and fills them up with "
            f"{words.pad}, but only knows {config.vocab_size}: correct its config.json"
        )
    if checkpointing:
        net: Any = core
        net.activation_checkpointing_enable({"use_reentrant": False})
    context = int(getattr(config, "max_position_embeddings", 0) or 2**31)
    frozen = core.eval().requires_grad_(False)
    return Pretrained(frozen, words, context, own_head)
