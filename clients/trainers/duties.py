"""What a peer may be asked to do besides plain descent, by name.

The hint ``do`` of the work names a duty. A duty has the trainer's own settings (its
step size, clipping, device) and a fresh rule at hand, and answers like a trainer. So
every strategy runs with the same trainers, in every place where they run.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeAlias

from clients.trainers.method import Method
from clients.trainers.rules import Rule
from fedcore.errors import ProtocolError
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task

Duty: TypeAlias = Callable[[Task, Work, PeerId, Method, Rule], Update]

DUTIES: Mapping[str, str] = {
    "anchor": "clients.trainers.amd:anchor",
    "choose": "clients.trainers.choose:choose",
    "coded": "clients.trainers.coded:coded",
    "fomaml": "clients.trainers.meta:fomaml",
    "fuse": "clients.trainers.fusion:fuse",
    "kafal-query": "clients.trainers.active:query",
    "kafal-train": "clients.trainers.active:train",
    "lowrank": "clients.trainers.lowrank:lowrank",
    "margin": "clients.trainers.margin:margin",
    "miner": "clients.trainers.amd:miner",
    "zeroth": "clients.trainers.zeroth:zeroth",
    "projected": "clients.trainers.projected:projected",
    "ranked": "clients.trainers.ranked:ranked",
}


def duty_of(work: Work) -> Duty:
    """Return the duty that ``work`` asks for.

    Raises:
        ProtocolError: it is none of ``DUTIES``: the other side is newer than we are.
    """
    name = work.hints.get("do")
    if name not in DUTIES:
        known = ", ".join(sorted(DUTIES))
        raise ProtocolError(f"asked to do {name!r:.40}; this peer knows: {known}")
    module, _, function = DUTIES[str(name)].partition(":")
    duty: Duty = getattr(import_module(module), function)
    return duty
