"""How much of a pretrained model is trained: all of it, a low rank, or a prompt.

What is not trained is frozen: it is no part of a task's parameters, never travels, and
all clients of a process share it.

Sources:
    Hu et al., "LoRA", ICLR 2022. https://arxiv.org/abs/2106.09685
    Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning",
    EMNLP 2021. https://arxiv.org/abs/2104.08691
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clients.tasks.lm.models import Pretrained
from clients.tasks.lm.net import NextToken, Pooled, Sharing, TextClass, shallow
from fedcore.config import nearest
from fedcore.errors import ConfigError

KINDS = ("full", "lora", "prompt")


@dataclass(frozen=True, slots=True)
class Tune:
    """What of a model is trained.

    Attributes:
        kind: ``"full"`` all weights, ``"lora"`` two thin matrices beside each matrix of
            the attention, ``"prompt"`` vectors put before every text.
        size: rank of ``lora``, or vectors of ``prompt``, >= 1.

    Raises:
        ConfigError: there is no such kind, or the size is below 1.
    """

    kind: str = "full"
    size: int = 8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"no way {self.kind!r} to tune; {nearest(self.kind, KINDS)}"
            )
        if self.size < 1:
            raise ConfigError(f"task.rank is {self.size}, but must be at least 1")


def next_token(model: Pretrained, tune: Tune) -> nn.Module:
    """Return a model of its own that scores next tokens; draws what is new in it."""
    core = _core(model, tune)
    prompt = _prompt(core, tune.size) if tune.kind == "prompt" else None
    return Sharing(NextToken(core, prompt))


def text_class(model: Pretrained, tune: Tune, classes: int) -> nn.Module:
    """Return a model of its own that sorts texts into ``classes``; its head is trained.

    Raises:
        ConfigError: its own head has another number of classes, or prompts are asked.
    """
    if tune.kind == "prompt":
        raise ConfigError("task.tune=prompt is for next-token tasks: use lora or full")
    core = _core(model, tune)
    config: Any = core.config
    if not model.own_head:
        return Sharing(Pooled(core, config.hidden_size, classes, model.words.pad))
    if config.num_labels != classes:
        raise ConfigError(
            f"the model's head has {config.num_labels} classes, but the data have "
            f"{classes}: give a model without a head, or data with its classes"
        )
    _own_head(core)
    return Sharing(TextClass(core, model.words.pad))


def _core(model: Pretrained, tune: Tune) -> nn.Module:
    """Return a copy of the model's core in which the right weights are trained."""
    if tune.kind == "full":
        return deepcopy(model.core).requires_grad_(True)
    core = shallow(model.core)
    if tune.kind == "lora":
        _add_lora(core, tune.size)
    return core


def _own_head(core: nn.Module) -> None:
    """Train a copy of the head of ``core``, in place."""
    for name, module in core.named_modules():
        if name.startswith(HEADS):
            for own, p in module.named_parameters(recurse=False):
                setattr(module, own, nn.Parameter(p.detach().clone()))


def _add_lora(core: nn.Module, rank: int) -> None:
    """Put float32 matrices of ``rank`` beside those of every attention, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = _targets(core)
    turned = any(type(m).__name__ == "Conv1D" for m in core.modules())  # as GPT-2 has
    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=targets, fan_in_fan_out=turned
    )
    inject_adapter_in_model(settings, core)
    for p in core.parameters():
        if p.requires_grad:  # small steps vanish in 16 bits, and these are few
            p.data = p.data.float()


HEADS = ("classifier", "pre_classifier", "score")
ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama and its kin
    *("query", "key", "value"),  # BERT and its kin
    *("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
    *("c_attn", "query_key_value", "qkv_proj", "out_proj"),  # GPT-2, NeoX, Phi
)


def _targets(core: nn.Module) -> list[str]:
    """Return the last names of the attention's matrices.

    Raises:
        ConfigError: the model calls them by names that are not known here.
    """
    last = {name.rpartition(".")[2] for name, _ in core.named_modules()}
    found = sorted(last.intersection(ATTENTION))
    if not found:
        raise ConfigError(
            f"no matrices of attention found in {type(core).__name__}, whose modules "
            f"are {', '.join(sorted(last)[:20])}: use task.tune=full"
        )
    return found


def _prompt(core: Any, size: int) -> Tensor:
    """Return ``size`` vectors to start from: those of tokens drawn at random."""
    table: Tensor = core.get_input_embeddings().weight
    return table.detach()[torch.randint(len(table), (size,))].float().clone()
