"""Which node sums whose updates, and the shape of the tree above them.

Source:
    Qi et al., "LIFL", MLSys 2024. https://arxiv.org/abs/2405.10968

Notation, source -> here:
    MC_i         ``capacity`` of a node
    k_i E_i      ``load`` of a peer, in the same unit
    RC_i         room: capacity less the loads placed there

Departures: peers are placed heaviest first (best fit *decreasing*), which needs fewer
nodes, and once: the source measures queues and places again while it runs.
"""

from collections.abc import Mapping
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
    a slow node is better than a lost peer.

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


def _check(numbers: Mapping[str, float], what: str) -> None:
    for name, x in numbers.items():
        if not 0 <= x < inf:
            raise ConfigError(f"{what} of {name} must be finite and >= 0, not {x}")
