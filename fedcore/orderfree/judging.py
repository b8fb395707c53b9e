"""What can be wrong with a fact: each fault with a stable word and a sentence.

    peer-name, signer                 who says it
    pool, base, scale, origin-type    what it is about
    epoch-old, epoch-new, withdrawn   whether it still counts, or counts yet
    index, index-type, zero           which coefficients
    nan, infinite, amount-type, range how much
    seq-type, replayed, equivocation  whether it is the next one of its peer
    gap, mismatch, crowded

As to facts that wait, also "far" and "crowded"; as to models, "past"; as to a cut,
"behind" and "ahead".

Of these "replayed", "gap", "far", "crowded", "epoch-old", "epoch-new", "withdrawn",
"behind" and "ahead" happen among honest peers: no reason to drop the sender.

Judging changes nothing and never depends on what else is waiting.
"""

import torch
from torch import Tensor

from fedcore.faults import Fault, peer_fault
from fedcore.names import shown
from fedcore.orderfree.facts import Fact, Origin, Withdrawal
from fedcore.orderfree.model import PEERS, Model, Register, head_of
from fedcore.strategy import PeerId


def fault(
    model: Model, fact: Fact | Withdrawal, signer: PeerId | None = None
) -> Fault | None:
    """Return why ``fact`` cannot be counted now, or None.

    Args:
        model: what is known; not changed.
        fact: nothing about it is taken for granted.
        signer: who has signed it, if that was checked. Only a fact's own peer may
            sign it; who may sign a withdrawal is not known here.
    """
    if isinstance(fact, Withdrawal):
        return peer_fault(fact.peer) or origin_fault(fact.origin, model.origin)
    return form_fault(model, fact, signer) or _turn_fault(model, fact)


def form_fault(model: Model, fact: Fact, signer: PeerId | None = None) -> Fault | None:
    """Judge all of ``fact`` but whether it is the turn of its number."""
    return (
        peer_fault(fact.peer)
        or origin_fault(fact.origin, model.origin)
        or _signer_fault(fact.peer, signer)
        or _epoch_fault(fact, model)
        or _indices_fault(fact)
        or _amounts_fault(fact)
    )


def origin_fault(found: object, wanted: Origin) -> Fault | None:
    """Judge what something is about: it must be what we are about."""
    if not isinstance(found, Origin):
        return "origin-type", f"the origin is a {type(found).__name__}"
    if found.pool != wanted.pool:
        words = f"{found.pool.word()}, ours is {wanted.pool.word()}"
        return "pool", f"counted in another pool: {words}"
    if found.base != wanted.base:
        bases = f"{found.base[:12]}, ours have {wanted.base[:12]}"
        return "base", f"built on other first weights: {bases}"
    if found.scale != wanted.scale:
        return "scale", f"counted at scale {found.scale:g}, ours is {wanted.scale:g}"
    return None


def _epoch_fault(fact: Fact, model: Model) -> Fault | None:
    """Judge whether the fact is one of the open epoch, of a peer that counts."""
    if type(fact.epoch) is not int or fact.epoch < 0:
        return "epoch-type", f"the epoch is {shown(fact.epoch)}, not a whole number"
    if fact.epoch < model.epoch:
        return "epoch-old", f"of epoch {fact.epoch}, which is over: {model.epoch} is on"
    if fact.epoch > model.epoch:
        return "epoch-new", f"of epoch {shown(fact.epoch)}, but {model.epoch} is on"
    if fact.peer in model.withdrawn:
        return "withdrawn", "was left out, and nothing more is taken"
    if type(fact.seq) is not int or fact.seq < 1:
        return "seq-type", f"the number is {shown(fact.seq)}, not 1 or more"
    return None


def _signer_fault(peer: PeerId, signer: PeerId | None) -> Fault | None:
    if signer in (None, peer):
        return None
    return "signer", f"this fact in its name was signed by {shown(signer)}"


def _line_fault(name: str, t: object) -> Fault | None:
    """Judge that ``t`` is one line of whole numbers."""
    if type(t) is not Tensor:  # a subclass may run its own code on every use
        return f"{name}-type", f"the {name} is a {type(t).__name__}, not a tensor"
    if t.is_floating_point() and t.layout == torch.strided:
        if bool(t.isnan().any()):
            return "nan", f"the {name} holds NaN"
        if bool(t.isinf().any()):
            return "infinite", f"the {name} holds an infinite number"
    if t.dtype != torch.int64 or t.layout != torch.strided or t.dim() != 1:
        form = f"{t.dtype} of shape {tuple(t.shape)}"
        return f"{name}-type", f"the {name} is {form}, not one line of int64"
    if t.device.type != "cpu":
        return f"{name}-type", f"the {name} is on {t.device}, not on the CPU"
    return None


def _indices_fault(fact: Fact) -> Fault | None:
    wrong = _line_fault("index", fact.indices)
    if wrong or not fact.indices.numel():
        return wrong
    low, high = (int(end) for end in torch.aminmax(fact.indices))
    if low < 0 or high >= fact.origin.pool.size:
        odd = low if low < 0 else high
        return "index", f"coefficient {odd} of {fact.origin.pool.size}"
    if bool((fact.indices[1:] <= fact.indices[:-1]).any()):
        return "index", "the coefficients are not in order, or one comes twice"
    return None


def _amounts_fault(fact: Fact) -> Fault | None:
    wrong = _line_fault("amount", fact.amounts)
    if wrong:
        return wrong
    found, wanted = fact.amounts.numel(), fact.indices.numel()
    if found != wanted:
        return "amount-type", f"{found} amounts for {wanted} coefficients"
    if not found:
        return None
    low, high = (int(end) for end in torch.aminmax(fact.amounts))
    top, reach = max(high, -low), fact.origin.reach
    if top > reach:
        return "range", f"adds {top}, above {reach}, to one coefficient"
    if not bool(fact.amounts.all()):
        return "zero", "adds nothing to a coefficient that it names"
    return None


def _turn_fault(model: Model, fact: Fact) -> Fault | None:
    """Judge whether the fact is the next one of its peer, and counts as ours do."""
    register = model.register(fact.peer)
    if fact.seq <= register.seq:
        return _again(model, fact, register)
    if fact.seq > register.seq + 1:
        return "gap", f"number {shown(fact.seq)}, but {register.seq + 1} is missing"
    if not register.seq and len(model.registers) >= PEERS:
        return "crowded", f"there are {PEERS} peers already"
    if fact.after != head_of(model.past, fact.peer, register.plus(fact)):
        said = "its register would not be the one that it says"
        return "mismatch", f"number {fact.seq}: {said}, so we differ in what was before"
    return None


def _again(model: Model, fact: Fact, register: Register) -> Fault:
    """Say what is wrong with a number that has been counted already."""
    if fact.seq < register.seq:
        return "replayed", f"number {fact.seq} again, after number {register.seq}"
    if fact.after == head_of(model.past, fact.peer, register):
        return "replayed", f"number {fact.seq} again"
    return "equivocation", f"said something else as number {fact.seq} before"
