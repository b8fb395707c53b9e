"""Which node sums whose updates, and the shape of the tree above them.

Source:
    Qi et al., "LIFL", MLSys 2024. https://arxiv.org/abs/2405.10968

Notation, source -> here:
    MC_i         ``capacity`` of a node: seconds of summing it can do per second
    k_i, E_i     updates per second of a peer, and seconds to sum one of them
    k_i E_i      ``load`` of a peer
    RC_i         room: capacity less the loads placed there
    α            ``alpha``, the weight of the newest measurement

Departures: the source smooths the queue of a node; we smooth each peer's load, from
which a node's follows, so that a peer takes its load along when it moves. Peers are
placed heaviest first (best fit *decreasing*), which needs fewer nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeVar

from fedcore.errors import ConfigError
from fedcore.strategy import PeerId

NodeId = str
Key = TypeVar("Key", str, int)
Widths = tuple[int, ...]  # aggregators per level, leaves first, the top last

SLACK = 1e-9  # of a capacity: sums of loads are rounded


def best_fit(need: float, rooms: Mapping[Key, float]) -> Key | None:
    """Return the node with the least room that is at least ``need``; None if none.

    Filling what is nearly full keeps others wholly free. Ties go by name.
    """
    fitting = [(room, node) for node, room in rooms.items() if room >= need]
    return min(fitting)[1] if fitting else None


def placed(
    loads: Mapping[PeerId, float], capacities: Mapping[NodeId, float]
) -> Mapping[PeerId, NodeId]:
    """Return the node of every peer, on few nodes and none above its capacity.

    Where the loads do not fit, peers go to the node with most room, below zero too:
    a slow node is better than a lost peer. ``rooms`` tells.

    Raises:
        ConfigError: there is no node, or a load or capacity is not finite and >= 0.
    """
    _check(loads, "the load")
    _check(capacities, "the capacity")
    if not capacities:
        raise ConfigError("there is no node to place peers on: name at least one")
    rooms = dict(capacities)
    places: dict[PeerId, NodeId] = {}
    for peer, load in sorted(loads.items(), key=lambda item: (-item[1], item[0])):
        node = best_fit(load * (1 - SLACK), rooms)
        if node is None:
            node = min(rooms, key=lambda name: (-rooms[name], name))
        places[peer] = node
        rooms[node] -= load
    return dict(sorted(places.items()))


def rooms(
    places: Mapping[PeerId, NodeId],
    loads: Mapping[PeerId, float],
    capacities: Mapping[NodeId, float],
) -> Mapping[NodeId, float]:
    """Return the room left on every node; below 0 it cannot keep up."""
    left = dict(capacities)
    for peer, node in places.items():
        left[node] -= loads[peer]
    return left


def widths(leaves: int, fan_in: int) -> Widths:
    """Return how many aggregators each level has, leaves first, down to one.

    ``widths(5, 2)`` is (5, 3, 2, 1). The aggregator ``i`` of a level takes from
    ``fan_in * i`` and the ``fan_in - 1`` after it, as far as there are any.

    Raises:
        ConfigError: there is no leaf, or an aggregator would take fewer than two.
    """
    if leaves < 1 or fan_in < 2:
        raise ConfigError(
            f"a tree needs at least 1 leaf and a fan-in of 2: {leaves}, {fan_in}"
        )
    levels = [leaves]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // fan_in))
    return tuple(levels)


def inputs(levels: Widths, fan_in: int, level: int, index: int) -> int:
    """Return how many aggregators below feed aggregator ``index`` of ``level`` >= 1."""
    return min(fan_in, levels[level - 1] - fan_in * index)


@dataclass(frozen=True, slots=True)
class Planner:
    """Places peers by what they were seen to cost, and again from time to time.

    Attributes:
        capacities: of every node, in seconds of summing per second, >= 0.
        alpha: weight of the newest measurement, in (0, 1].
        every_s: seconds between plans, >= 0.
        loads: of every peer so far, in seconds of summing per second.
        places: the node of every peer.
        planned_s: when ``places`` were made.
    """

    capacities: Mapping[NodeId, float]
    alpha: float = 0.7
    every_s: float = 60.0
    loads: Mapping[PeerId, float] = field(default_factory=dict)
    places: Mapping[PeerId, NodeId] = field(default_factory=dict)
    planned_s: float = -inf

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or not self.every_s >= 0:
            raise ConfigError(
                f"alpha must be in (0, 1] and every_s >= 0: {self.alpha}, "
                f"{self.every_s}"
            )

    def measured(self, peer: PeerId, load: float) -> "Planner":
        """Return the planner after ``peer`` was seen to cost ``load``.

        Raises:
            ConfigError: the load is not finite and >= 0.
        """
        _check({peer: load}, "the load")
        old = self.loads.get(peer, load)
        fresh = self.alpha * load + (1 - self.alpha) * old
        return replace(self, loads={**self.loads, peer: fresh})

    def gone(self, peer: PeerId) -> "Planner":
        """Return the planner without ``peer``."""
        loads = {p: x for p, x in self.loads.items() if p != peer}
        places = {p: n for p, n in self.places.items() if p != peer}
        return replace(self, loads=loads, places=places)

    def planned(self, now_s: float) -> "Planner":
        """Return the planner with new places, if it is time; newcomers get one now."""
        if now_s >= self.planned_s + self.every_s:
            places = placed(self.loads, self.capacities)
            return replace(self, places=places, planned_s=now_s)
        new = {p: x for p, x in self.loads.items() if p not in self.places}
        left = rooms(self.places, self.loads, self.capacities)
        spare = {node: max(room, 0.0) for node, room in left.items()}
        return replace(self, places={**self.places, **placed(new, spare)})


def _check(numbers: Mapping[str, float], what: str) -> None:
    for name, x in numbers.items():
        if not 0 <= x < inf:
            raise ConfigError(f"{what} of {name} must be finite and >= 0, not {x}")
