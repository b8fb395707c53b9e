"""Facts that came before their turn: held until the gap is filled, and bounded.

Gossip brings facts late, twice and in any order. What is counted already is passed
over; what is next is counted; what is ahead waits. So the model itself never has gaps,
and two replicas that have heard the same facts hold the same model whatever waited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from fedcore.errors import FactError
from fedcore.names import shown
from fedcore.orderfree.facts import Fact, Withdrawal
from fedcore.orderfree.folding import apply
from fedcore.orderfree.judging import fault
from fedcore.orderfree.model import Model
from fedcore.strategy import PeerId

Held = Mapping[PeerId, Mapping[int, Fact]]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Facts ahead of their turn, by peer and number.

    Attributes:
        window: how far after the last one that counts a fact may be, >= 1.
        most: facts of all peers that may wait, >= 1.
        numbers: coefficients in all of them, >= 1; each takes 16 bytes.
    """

    held: Held = field(default_factory=dict)
    window: int = 64
    most: int = 4096
    numbers: int = 1 << 22

    def __len__(self) -> int:
        return sum(map(len, self.held.values()))

    def full(self, fact: Fact) -> bool:
        """Return whether there is no room for ``fact``."""
        facts = [fact, *(f for mine in self.held.values() for f in mine.values())]
        held = sum(len(f.indices) for f in facts)
        return len(facts) > self.most or held > self.numbers


@dataclass(frozen=True, slots=True)
class Learned:
    """What has become of a model and of what waits.

    Attributes:
        refused: facts that had waited, and turned out to be wrong.
    """

    model: Model
    waiting: Waiting
    refused: Sequence[FactError] = ()


def learn(
    model: Model,
    waiting: Waiting,
    fact: Fact | Withdrawal,
    signer: PeerId | None = None,
) -> Learned:
    """Take ``fact`` in, now or when its turn comes.

    One that was counted before, or waits already, changes nothing.

    Raises:
        FactError: it will never be counted, or is too far ahead (kind "far").
    """
    found = fault(model, fact, signer)
    kind = found[0] if found else ""
    if kind == "replayed":
        return Learned(model, waiting)
    if isinstance(fact, Fact) and kind == "gap":
        return Learned(model, _held(model, waiting, fact))
    return _settled(apply(model, fact, signer), waiting, [fact.peer])


def settle(model: Model, waiting: Waiting) -> Learned:
    """Count what waits and has its turn; drop what can never have it any more.

    To be called when the model has changed by other ways: a merge, a new epoch.
    """
    return _settled(model, waiting, list(waiting.held))


def _settled(model: Model, waiting: Waiting, peers: Sequence[PeerId]) -> Learned:
    refused: list[FactError] = []
    held = dict(waiting.held)
    for peer in peers:
        model, rest = _drained(model, dict(held.pop(peer, {})), refused)
        if rest:
            held[peer] = rest
    return Learned(model, replace(waiting, held=held), refused)


def _drained(
    model: Model, facts: dict[int, Fact], refused: list[FactError]
) -> tuple[Model, dict[int, Fact]]:
    """Return ``model`` with all of one peer's ``facts`` that fit, and the rest."""
    for seq in sorted(facts):
        kind, reason = fault(model, facts[seq]) or ("", "")
        if kind == "gap":
            break
        fact = facts.pop(seq)
        if not kind:
            model = apply(model, fact)
        elif kind != "replayed":
            refused.append(FactError(kind, fact.peer, reason))
    return model, facts


def _held(model: Model, waiting: Waiting, fact: Fact) -> Waiting:
    have, held = model.register(fact.peer).seq, waiting.held.get(fact.peer, {})
    mine = {seq: old for seq, old in held.items() if old.epoch == fact.epoch}
    if fact.seq in mine:
        if _same(mine[fact.seq], fact):
            return waiting
        said = f"said something else as number {fact.seq} before"
        raise FactError("equivocation", fact.peer, said)
    if fact.seq > have + waiting.window:
        far = f"number {shown(fact.seq)} is more than {waiting.window} after {have}"
        raise FactError("far", fact.peer, far)
    if waiting.full(fact):
        raise FactError("crowded", fact.peer, f"{len(waiting)} facts wait already")
    together = {**waiting.held, fact.peer: {**mine, fact.seq: fact}}
    return replace(waiting, held=together)


def _same(a: Fact, b: Fact) -> bool:
    pairs = ((a.indices, b.indices), (a.amounts, b.amounts))
    return a.after == b.after and all(torch.equal(x, y) for x, y in pairs)
