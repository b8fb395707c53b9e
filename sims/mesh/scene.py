"""A scene: which machines, what their users do, and what must hold whatever goes wrong.

``play`` runs one scene with one seed: first everything goes wrong for a while; then it
stops, and the peers have ``settle_s`` to end as they should.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from p2p.machine import Machine
from sims.mesh.faults import Fault, Faults
from sims.mesh.place import Place
from sims.mesh.world import Violation, World

SHOWN_LINES = 60


class Scene(Protocol):
    """One protocol under test. An object serves one run.

    Attributes:
        nodes: how many peers, unless somebody wants another number.
        minutes: how long things go wrong, in virtual minutes.
        settle_s: longest time in which all must be well again after that.
        faults: what may go wrong.
    """

    nodes: int
    minutes: float
    settle_s: float
    faults: Faults

    def build(self, place: Place) -> Machine:
        """Return the machine of a peer, from what its disk holds."""
        ...

    def begin(self, world: World) -> None:
        """Plan what users do, and say what must hold (``checks``, ``looks``)."""
        ...

    def missing(self, world: World) -> str | None:
        """Return what is not yet as it must be in the end; None when all is well."""
        ...

    def figures(self, world: World) -> Mapping[str, float]:
        """Return numbers that people want to see."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that fixes a run.

    Attributes:
        scene: its name in ``sims.mesh.catalog``.
        seed: of all dice.
        nodes: how many peers; None for as many as the scene likes.
        minutes: how long things go wrong; None for as long as the scene likes.
        without: numbers of planned faults that are left out.
        calm: kinds of noise that are left out.
    """

    scene: str
    seed: int
    nodes: int | None = None
    minutes: float | None = None
    without: frozenset[int] = frozenset()
    calm: frozenset[str] = frozenset()

    @property
    def command(self) -> str:
        """The command line that runs this again."""
        words = ["fedcore sim mesh", f"--only {self.scene}", f"--seed {self.seed}"]
        words += [f"--nodes {self.nodes}"] if self.nodes else []
        words += [f"--minutes {self.minutes:g}"] if self.minutes else []
        words += [f"--without {ranges(self.without)}"] if self.without else []
        words += [f"--calm {','.join(sorted(self.calm))}"] if self.calm else []
        return " ".join([*words, "--trace"])


@dataclass(frozen=True)
class Report:
    """What came of a run.

    Attributes:
        case: what was run.
        violation: what is broken; None if all held.
        virtual_s: how long it took in the world.
        wall_s: how long it took here.
        steps: how many events the machines took.
        settled_s: virtual seconds from the end of all faults until all was well.
        tally: what happened, and how often.
        figures: numbers of the scene.
        digest: of everything that happened.
        plan: the faults, in words, with their numbers.
        trace: the last lines of what happened; empty unless it is broken or wanted.
    """

    case: Case
    violation: Violation | None
    virtual_s: float
    wall_s: float
    steps: int
    settled_s: float
    tally: Mapping[str, int]
    figures: Mapping[str, float]
    digest: str
    plan: tuple[str, ...]
    numbers: tuple[int, ...] = field(default=())
    trace: str = ""


def play(case: Case, make: Callable[[], Scene], *, lines: int = 0) -> Report:
    """Run ``case`` on a scene that ``make`` makes.

    Args:
        case: what to run.
        make: makes a fresh scene.
        lines: how many of the last lines of the trace to keep even if all held.
    """
    scene, began_s = make(), time.perf_counter()
    world, end_s = world_of(case, scene)
    scene.begin(world)
    world.run(end_s)
    deadline_s = end_s + scene.settle_s
    settled = world.run(deadline_s, lambda w: w.nemesis.done and not scene.missing(w))
    if not settled and world.violation is None:
        world.violate(f"after {scene.settle_s:g} s of peace: {scene.missing(world)}")
    shown = max(lines, SHOWN_LINES if world.violation else 0)
    return Report(
        case=case,
        violation=world.violation,
        virtual_s=world.now_s,
        wall_s=time.perf_counter() - began_s,
        steps=world.steps,
        settled_s=max(0.0, world.now_s - end_s),
        tally=dict(sorted(world.trace.tally.items())),
        figures=scene.figures(world),
        digest=world.trace.digest,
        plan=plan_words(world, case),
        numbers=tuple(sorted({*range(len(world.nemesis.plan))} - case.without)),
        trace=world.trace.text(shown) if shown else "",
    )


def world_of(case: Case, scene: Scene) -> tuple[World, float]:
    """Return the world of ``case``, and when its faults end, in true seconds."""
    nodes, end_s = case.nodes or scene.nodes, (case.minutes or scene.minutes) * 60
    dice = World(case.seed, scene.build, nodes=1).dice("faults")
    faults = scene.faults.some(dice).without(sorted(case.calm))
    faults = replace(faults, liars=min(faults.liars, (nodes - 1) // 2))
    planned_s = scene.minutes * 60  # a shorter run has the first faults of a longer
    world = World(
        case.seed, scene.build, nodes=nodes, faults=faults,
        chaos_s=max(planned_s, end_s), without=case.without,
    )  # fmt: skip
    world.at(end_s, world.nemesis.stop)
    return world, end_s


def plan_words(world: World, case: Case) -> tuple[str, ...]:
    """Return the faults that are not left out, one line each, with their numbers."""
    names = [host.name for host in world.hosts]
    planned: list[tuple[int, Fault]] = list(enumerate(world.nemesis.plan))
    return tuple(
        f"{number:3d} {fault.words(names)}"
        for number, fault in planned
        if number not in case.without
    )


def ranges(numbers: frozenset[int]) -> str:
    """Return ``numbers`` as text such as ``0-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in parts)
