"""Duty "projected" of Ferret: train as ever, and send the change folded.

The model comes as what it was at first and the sums folded since; see
``strategies.ferret_blocks``. The answer has the name of the newest epoch, whose signs
and widths it was folded with.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from typing import cast

import torch
from torch import Tensor

from clients.trainers import local
from clients.trainers.method import Method, reproducible
from clients.trainers.rules import Rule
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.ring import decode
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task
from strategies.buffers import weights_of
from strategies.ferret import FOLDED, WIDTHS
from strategies.ferret_blocks import (
    RECONSTRUCTIONS,
    Block,
    Epoch,
    Folding,
    Reconstruct,
    blocks_of,
)

OURS = frozenset(
    {"do", "base", "seed", "reconstruct", "server_lr"}
)  # hints that end here


def projected(
    task: Task, work: Work, peer: PeerId, method: Method, rule: Rule
) -> Update:
    """Descend from the model that ``work`` tells of; return the folded change.

    Raises:
        ProtocolError: the work is malformed, or does not fit the task's model.
    """
    folding, epochs = folding_of(work), epochs_of(work)
    hints = {name: hint for name, hint in work.hints.items() if name not in OURS}
    with reproducible():
        start = folding.rebuilt(work.params, epochs)
    plain = replace(work, params=start, aux={}, hints=hints)
    update = local.descend(task, plain, peer, method, rule)
    newest = len(epochs) - 1
    with reproducible():
        change = weights_of(update.payload)
        sums = _sums(folding, change, newest, epochs[newest].widths)
    return replace(update, payload={f"{FOLDED}{newest}": sums})


def _sums(
    folding: Folding, change: Params, epoch: int, widths: Sequence[int]
) -> Tensor:
    """Return ``change`` folded, float32; NaN if it is not finite, or too large.

    Training that blew up is then refused by name, as that of any other peer is.
    """
    try:
        return decode(folding.folded(change, epoch, widths), dtype=torch.float32)
    except ProtocolError:
        return torch.full((sum(widths),), nan)


def folding_of(work: Work) -> Folding:
    """Return the rules of folding that ``work`` names.

    Raises:
        ProtocolError: they are not ones we know.
    """
    seed, reconstruct = work.hints.get("seed"), work.hints.get("reconstruct")
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ProtocolError(f"hint seed must be in 0 .. 2^63 - 1: {seed!r:.40}")
    if reconstruct not in RECONSTRUCTIONS:
        raise ProtocolError(f"cannot reconstruct by {reconstruct!r:.40}")
    server_lr = work.hints.get("server_lr")
    if type(server_lr) is not float or not 0 < server_lr < inf:
        raise ProtocolError(f"hint server_lr must be above 0: {server_lr!r:.40}")
    return Folding(seed, cast(Reconstruct, reconstruct), server_lr)


def epochs_of(work: Work) -> Sequence[Epoch]:
    """Return what was folded so far, as ``work`` tells it, oldest first.

    Raises:
        ProtocolError: widths or sums are missing, or do not fit the model.
    """
    blocks, widths = blocks_of(work.params), work.aux.get(WIDTHS)
    if widths is None or widths.dtype != torch.int64 or widths.ndim != 2:
        raise ProtocolError("folded work without the widths of its epochs")
    if not len(widths) or widths.shape[1] != len(blocks):
        raise ProtocolError(
            f"folded work has widths of shape {tuple(widths.shape)} for a model of "
            f"{len(blocks)} blocks"
        )
    rows = [tuple(row) for row in widths.tolist()]
    return [_epoch(work.aux, e, row, blocks) for e, row in enumerate(rows)]


def _epoch(
    aux: Params, number: int, widths: tuple[int, ...], blocks: Sequence[Block]
) -> Epoch:
    for block, width in zip(blocks, widths, strict=True):
        if not 1 <= width <= block.size:
            raise ProtocolError(
                f"epoch {number} folds {block.names[0]!r}, {block.size} numbers, "
                f"to {width}"
            )
    sums = aux.get(f"{FOLDED}{number}")
    if sums is None or sums.dtype != torch.int64 or sums.shape != (sum(widths),):
        raise ProtocolError(f"epoch {number} does not come with {sum(widths)} sums")
    return Epoch(widths, sums)
