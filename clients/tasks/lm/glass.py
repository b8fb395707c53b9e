"""The 0.85 million parameter model in the package glassllm, as a Hugging Face Llama.

Source:
    glassllm 0.1.0 (PyPI, MIT), a NumPy model trained on Lewis Carroll (``en``) or
    Machado de Assis (``pt``). Its files are read; the package is not imported.

It turns neighbouring coordinates by an angle where Llama turns coordinate i and
i + d/2, so the rows of queries and keys are put in the other order: even ones first.
Matrices are transposed, as it multiplies from the left.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clients.tasks.lm.words import Words
from fedcore.errors import ConfigError, StorageError

PAD, UNKNOWN, BEGIN, END = range(4)  # the first tokens
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
SPACE = "▁"


def folder() -> Path:
    """Return where the package keeps its weights.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec("glassllm")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the model 'glass' comes with the package glassllm (PyPI), which is not "
            "installed: run `pip install 'fedcore[lm]'`"
        )
    return Path(spec.origin).parent / "weights"


def glass(language: str) -> nn.Module:
    """Return the model of ``language``, ``"en"`` or ``"pt"``, in float32.

    Raises:
        ConfigError: the package is not installed.
        StorageError: its file is damaged.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    path = folder() / f"{language}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            size = json.loads(str(file["__config__"]))
            names = [name for name in file.files if name != "__config__"]
            arrays = {name: torch.from_numpy(file[name]).float() for name in names}
        settings = _settings(size, arrays["blocks.0.ffn.W1"].shape[1])
        config = LlamaConfig.from_dict(settings)
        weights = _renamed(arrays, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights, strict=True)
    return model


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path} cannot be read: {error}; install it again")


def _settings(size: Mapping[str, Any], hidden: int) -> dict[str, Any]:
    """Return the package's settings under Llama's names."""
    return {
        "vocab_size": size["vocab_size"],
        "hidden_size": size["d_model"],
        "intermediate_size": hidden,
        "num_hidden_layers": size["n_layers"],
        "num_attention_heads": size["n_heads"],
        "num_key_value_heads": size["n_kv_heads"],
        "max_position_embeddings": size["max_len"],
        "rms_norm_eps": size["eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": size["rope_base"]},
        "tie_word_embeddings": True,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }


def _renamed(arrays: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return the weights under Llama's names, in Llama's order."""
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    own = {
        "model.embed_tokens.weight": arrays["E"],
        "lm_head.weight": arrays["E"],
        "model.norm.weight": arrays["norm_f.gamma"],
    }
    for i in range(config.num_hidden_layers):
        old, new = f"blocks.{i}", f"model.layers.{i}"
        own[f"{new}.input_layernorm.weight"] = arrays[f"{old}.norm1.gamma"]
        own[f"{new}.post_attention_layernorm.weight"] = arrays[f"{old}.norm2.gamma"]
        for theirs, ours in (("W1", "gate"), ("W3", "up"), ("W2", "down")):
            own[f"{new}.mlp.{ours}_proj.weight"] = arrays[f"{old}.ffn.{theirs}"].T
        for ours in "qkvo":
            weight = arrays[f"{old}.attn.W_{ours.upper()}"].T
            turned = _halves(weight, heads[ours]) if ours in heads else weight
            own[f"{new}.self_attn.{ours}_proj.weight"] = turned
    return own


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Return ``weight`` (heads * d, width), the even rows of each head first."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def glass_words(language: str) -> Words:
    """Return the tokens of the model of ``language``: byte pairs of characters.

    Raises:
        ConfigError: the package is not installed.
        StorageError: its file is damaged.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as cut

    path = folder() / f"{language}.tokenizer.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        merges = [(str(a), str(b)) for a, b in kept["merges"]]
        names = [*SPECIAL, *kept["alphabet"], *(a + b for a, b in merges)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    numbers = {name: i for i, name in enumerate(names)}
    whole = Tokenizer(models.BPE(numbers, merges, unk_token=SPECIAL[UNKNOWN]))
    whole.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(" ", SPACE)]
    )
    pieces = Regex(rf"\n|{SPACE}*[^{SPACE}\n]+|{SPACE}+")
    whole.pre_tokenizer = cut.Split(pieces, "isolated")
    whole.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    return Words(whole, end=END, pad=PAD)
