"""How a model grows: by a fact, by another model, by the end of an epoch.

Everything returns a new model and leaves the old one as it was, bit for bit; what is
refused is refused before anything is made.

Merging is the join of a lattice as long as no peer tells two stories: the epoch that
is further on wins, in one epoch the register of the higher number, and withdrawals
add up. Two registers of one number that differ are a lie of their peer; that is
refused by name, and the way out is to withdraw the peer on both sides.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedcore.errors import ConfigError, FactError
from fedcore.faults import Fault, peer_fault
from fedcore.names import shown
from fedcore.orderfree.facts import Fact, Withdrawal
from fedcore.orderfree.judging import fault, form_fault, origin_fault
from fedcore.orderfree.model import PEERS, Model, Register, head_of, past_of
from fedcore.strategy import PeerId


def fact_of(model: Model, peer: PeerId, coefficients: Tensor) -> Fact:
    """Return the fact by which ``peer`` adds ``coefficients``, int64 (K,).

    Raises:
        FactError: the fact is not one that others would count.
        ConfigError: ``coefficients`` are not one number for each direction.
    """
    size = model.origin.pool.size
    if coefficients.shape != (size,):
        shape = tuple(coefficients.shape)
        raise ConfigError(f"coefficients of shape {shape}; the pool takes ({size},)")
    register, places = model.register(peer), coefficients.nonzero().reshape(-1)
    seq, amounts = register.seq + 1, coefficients[places]
    fact = Fact(model.origin, model.epoch, peer, seq, "", places, amounts)
    _refuse(peer, form_fault(model, fact))
    return replace(fact, after=head_of(model.past, peer, register.plus(fact)))


def apply(model: Model, fact: Fact | Withdrawal, signer: PeerId | None = None) -> Model:
    """Return ``model`` with ``fact`` counted.

    Raises:
        FactError: it cannot be counted; see ``fedcore.orderfree.judging``.
    """
    _refuse(fact.peer, fault(model, fact, signer))
    if isinstance(fact, Withdrawal):
        return withdraw(model, fact.peer)
    grown = model.register(fact.peer).plus(fact)
    return replace(model, registers={**model.registers, fact.peer: grown})


def withdraw(model: Model, peer: PeerId) -> Model:
    """Return ``model`` as if ``peer`` had never added to the open epoch.

    It stays out of later epochs and of merges too. What it added to epochs that are
    closed is in their sums and stays.

    Raises:
        FactError: the name is not one of a peer, or too many are left out already.
    """
    _refuse(peer, peer_fault(peer))
    withdrawn = model.withdrawn | {peer}
    _check_crowd(peer, withdrawn)
    rest = {name: r for name, r in model.registers.items() if name != peer}
    return replace(model, registers=rest, withdrawn=withdrawn)


def merge(a: Model, b: Model, sender: PeerId = "the other model") -> Model:
    """Return what both know together.

    Args:
        a: one model.
        b: another, whose ``sender`` a refusal names unless a peer is to blame.
        sender: where ``b`` comes from.

    Raises:
        FactError: they do not build on the same weights, pool, scale and closed
            epochs; or a peer told both different things under one number.
    """
    _refuse(sender, origin_fault(b.origin, a.origin))
    old, new = sorted((a, b), key=lambda model: model.epoch)
    _refuse(sender, _past_fault(old, new))
    withdrawn = a.withdrawn | b.withdrawn
    registers = dict(new.registers)
    for peer in old.registers if old.epoch == new.epoch else ():
        registers[peer] = _joined(peer, old.register(peer), new.register(peer))
    kept = {peer: r for peer, r in registers.items() if peer not in withdrawn}
    _check_crowd(sender, kept)
    _check_crowd(sender, withdrawn)
    return replace(new, registers=kept, withdrawn=withdrawn)


def ahead_of(model: Model, vector: Mapping[PeerId, int]) -> Model:
    """Return the part of ``model`` that one at ``vector`` lacks, to be merged there.

    It is a model as well, of fewer registers: 8 K bytes for each peer of whom there is
    news, however many facts those were. To one in an older epoch, send all.
    """
    news = {p: r for p, r in model.registers.items() if r.seq > vector.get(p, 0)}
    return replace(model, registers=news)


def rebase(model: Model, cut: Mapping[PeerId, int]) -> Model:
    """Return ``model`` in its next epoch: what the cut holds is closed.

    The weights stay, bit for bit; the next epoch has new directions and numbers its
    facts from 1. All replicas rebase at the same cut, which its peers have agreed on
    and after which they said nothing more in the old epoch. Facts beyond the cut are
    refused from then on, and a replica that has counted one takes the snapshot of
    another.

    Args:
        model: holds exactly what the cut names.
        cut: number of the last fact of every peer, as ``Model.vector`` says.

    Raises:
        FactError: ``model`` holds less than the cut (kind "behind") or more ("ahead").
    """
    ours = model.vector()
    for peer in sorted({*cut, *ours}):
        have, want = ours.get(peer, 0), cut.get(peer, 0)
        if have != want:
            kind = "behind" if have < want else "ahead"
            reason = f"the cut is at number {shown(want)}, we hold {have}"
            raise FactError(kind, _named(peer), reason)
    closed, clipped = model.coefficients(), model.saturated()
    past = past_of(model.origin, closed, clipped)
    return replace(model, closed=closed, past=past, registers={}, clipped=clipped)


def _past_fault(old: Model, new: Model) -> Fault | None:
    """Judge that the closed epochs of ``new`` begin with those of ``old``."""
    if old.past == new.past:
        return None
    if old.epoch < new.epoch and torch.equal(old.closed, new.closed[: old.epoch]):
        return None
    return "past", f"epochs before {old.epoch} were closed with other sums"


def _joined(peer: PeerId, a: Register, b: Register) -> Register:
    if a.seq != b.seq:
        return max(a, b, key=lambda register: register.seq)
    if not a.same(b):
        said = f"said different things, up to number {a.seq}, to different peers"
        raise FactError("equivocation", peer, said)
    return a


def _check_crowd(peer: object, peers: Collection[PeerId]) -> None:
    """Refuse more peers than a snapshot holds."""
    if len(peers) > PEERS:
        raise FactError("crowded", _named(peer), f"more than {PEERS} peers")


def _refuse(peer: object, found: Fault | None) -> None:
    if found is not None:
        kind, reason = found
        raise FactError(kind, _named(peer), reason)


def _named(peer: object) -> str:
    """Return the name of ``peer`` as it is, if it is fit to be shown."""
    return shown(peer) if peer_fault(peer) else str(peer)
