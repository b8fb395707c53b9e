"""The model written out from its definition: the whole log, sorted and added up.

Slow, obvious, in Python's integers of any size; what the rest must equal.
"""

from collections.abc import Collection, Iterable

from fedcore.orderfree.facts import Fact, Origin
from fedcore.strategy import PeerId

Log = dict[PeerId, list[Fact]]


def total_of(
    origin: Origin, facts: Iterable[Fact], withdrawn: Collection[PeerId] = ()
) -> list[int]:
    """Return the sum that replicas must hold who have heard ``facts``, of one epoch.

    In any order, with repeats and gaps; what comes after a gap does not count yet.
    """
    registers = [
        _register(origin, told)
        for peer, told in _logs(facts).items()
        if peer not in withdrawn
    ]
    return [_cut(origin, sum(column)) for column in _columns(origin, registers)]


def _logs(facts: Iterable[Fact]) -> Log:
    """Return the facts of each peer from number 1 up to the first gap."""
    logs: Log = {}
    for fact in sorted(facts, key=lambda fact: (fact.peer, fact.seq)):
        told = logs.setdefault(fact.peer, [])
        if fact.seq == len(told) + 1:
            told.append(fact)
    return logs


def _register(origin: Origin, told: list[Fact]) -> list[int]:
    line = [0] * origin.pool.size
    for fact in told:
        pairs = zip(fact.indices.tolist(), fact.amounts.tolist(), strict=True)
        for index, amount in pairs:
            line[index] = _cut(origin, line[index] + amount)
    return line


def _columns(origin: Origin, registers: list[list[int]]) -> Iterable[tuple[int, ...]]:
    return zip(*registers, strict=True) if registers else [()] * origin.pool.size


def _cut(origin: Origin, number: int) -> int:
    return max(-origin.reach, min(origin.reach, number))
