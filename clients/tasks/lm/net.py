"""The modules around a Hugging Face model: token numbers in, scores out."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Place: TypeAlias = tuple[int, torch.device, torch.dtype]


class Sharing(nn.Module):
    """A model whose state is only what is trained, and whose copies share the rest.

    ``state_dict`` holds every trained tensor once (tied weights have one name) and,
    when nothing is frozen, the buffers. A copy of the module has its own trained
    tensors; frozen ones, which nobody writes into, are the same object in all copies.

    Args:
        net: the model; a parameter that does not require a gradient is frozen.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        frozen = any(not p.requires_grad for p in net.parameters())
        trained = {f"net.{n}" for n, p in net.named_parameters() if p.requires_grad}
        buffers = () if frozen else (f"net.{n}" for n, _ in net.named_buffers())
        self.names = frozenset({*trained, *buffers})
        self.moved: dict[Place, nn.Parameter] = {}  # frozen weights on other devices
        self.register_state_dict_post_hook(_only_named)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sharing":
        copy: Sharing = _copied(self, memo, lambda p: not p.requires_grad)
        return copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Sharing":
        # Torch moves a parameter in place, and so would move that of every copy.
        for module in self.modules():
            for name, p in module._parameters.items():
                if p is not None and not p.requires_grad:
                    module._parameters[name] = self._elsewhere(p, fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _elsewhere(
        self, p: nn.Parameter, fn: Callable[[Tensor], Tensor]
    ) -> nn.Parameter:
        """Return frozen ``p`` where ``fn`` puts it; moved once for all copies."""
        there = fn(p.detach().new_empty(0))
        if (there.device, there.dtype) == (p.device, p.dtype):
            return p
        place = (id(p), there.device, there.dtype)
        if place not in self.moved:
            self.moved[place] = nn.Parameter(fn(p.detach()), requires_grad=False)
        return self.moved[place]


def shallow(net: nn.Module) -> nn.Module:
    """Return a copy of ``net`` with modules of its own around the same weights."""
    copy: nn.Module = _copied(net, {}, lambda p: True)
    return copy


def _copied(net: Any, memo: dict[int, Any], shares: Callable[[Tensor], bool]) -> Any:
    """Return a deep copy of ``net`` that shares parameters, settings and ``moved``."""
    for module in net.modules():
        kept = (*module.parameters(recurse=False),)
        settings = getattr(module, "config", None)
        memo |= {id(p): p for p in kept if shares(p)} | {id(settings): settings}
    moved = net.__dict__.get("moved")
    memo[id(moved)] = moved
    copy = net.__class__.__new__(net.__class__)
    memo[id(net)] = copy
    copy.__dict__.update(deepcopy(net.__dict__, memo))
    return copy


def _only_named(
    module: Sharing, state: dict[str, Tensor], prefix: str, metadata: object
) -> None:
    for name in [n for n in state if n.startswith(prefix)]:
        if name.removeprefix(prefix) not in module.names:
            del state[name]


class NextToken(nn.Module):
    """A causal language model, perhaps with trained vectors put before every text.

    Args:
        core: a Hugging Face causal model.
        prompt: vectors before the text, shape (k, width); None for none.
    """

    def __init__(self, core: nn.Module, prompt: Tensor | None = None) -> None:
        super().__init__()
        self.core = core
        self.prompt = None if prompt is None else nn.Parameter(prompt)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of each next token, (n, vocabulary, positions).

        Args:
            x: token numbers, (n, positions). Texts are filled up at their end, where
                no earlier position looks, so no mask is needed.
        """
        if self.prompt is None:
            logits: Tensor = self.core(input_ids=x, use_cache=False).logits
            return logits.transpose(1, 2)
        words: Tensor = self.core.get_input_embeddings()(x)  # type: ignore[operator]
        prompt = self.prompt.to(words.dtype).expand(len(x), -1, -1)
        told = self.core(inputs_embeds=torch.cat([prompt, words], 1), use_cache=False)
        logits = told.logits[:, len(self.prompt) :]
        return logits.transpose(1, 2)


class TextClass(nn.Module):
    """A classifier of texts with the head of its Hugging Face model.

    Args:
        core: a Hugging Face sequence classifier.
        pad: number of the token that fills texts up.
    """

    def __init__(self, core: nn.Module, pad: int) -> None:
        super().__init__()
        self.core, self.pad = core, pad

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (n, classes), of token numbers, (n, positions)."""
        scores: Tensor = self.core(input_ids=x, attention_mask=x.ne(self.pad)).logits
        return scores


class Pooled(nn.Module):
    """A new linear head over the mean of what an encoder says of each token.

    Args:
        core: a Hugging Face model without a head.
        width: numbers it says of each token.
        classes: outputs, >= 2.
        pad: number of the token that fills texts up.
    """

    def __init__(self, core: nn.Module, width: int, classes: int, pad: int) -> None:
        super().__init__()
        self.core, self.pad = core, pad
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (n, classes), of token numbers, (n, positions)."""
        real = x.ne(self.pad)
        said: Tensor = self.core(input_ids=x, attention_mask=real).last_hidden_state
        share = real.unsqueeze(2).to(said.dtype)
        mean = (said * share).sum(1) / share.sum(1).clamp(min=1)
        scores: Tensor = self.head(mean.to(self.head.weight.dtype))
        return scores
