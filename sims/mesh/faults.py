"""What can go wrong: rates that a seed draws, and the plan that it makes of them.

Noise (loss, duplicates, late messages) is drawn for each message. All else is a list of
``Fault`` fixed before the run begins, so that a shorter list can be tried when a run
fails. Each seed leaves out about half of the kinds: faults hide one another.

Source: Groce et al., "Swarm Testing", ISSTA 2012.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

DAY_S = 86_400.0
NOISE = ("loss", "duplicate", "late")


@dataclass(frozen=True, slots=True)
class Faults:
    """How much goes wrong.

    Attributes:
        loss: share of messages that vanish, in [0, 1).
        duplicate: share of messages that come twice, in [0, 1).
        late: share of messages that take up to 3 s longer, in [0, 1).
        crashes: power cuts, a minute of the whole mesh; so are the others:
        cuts: partitions, both ways or one way, of up to a third of the time.
        pauses: hosts that stop for up to 30 s, as a laptop does.
        resets: connections that break for no reason.
        jumps: dates that change by up to a day.
        clones: disks that are copied and go on living with the same key.
        rollbacks: power cuts after which an old copy of the disk comes back.
        skewed: share of hosts whose date is wrong by up to a day.
        drifting: share of hosts whose clock runs up to 5 % fast or slow.
        slow: share of hosts that take up to 50 ms for each event.
        hidden: share of hosts that nobody can dial, as behind a NAT.
        liars: number of hosts that send what they like.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    crashes: float = 0.0
    cuts: float = 0.0
    pauses: float = 0.0
    resets: float = 0.0
    jumps: float = 0.0
    clones: float = 0.0
    rollbacks: float = 0.0
    skewed: float = 0.0
    drifting: float = 0.0
    slow: float = 0.0
    hidden: float = 0.0
    liars: int = 0

    def some(self, rng: random.Random) -> "Faults":
        """Return these with about half of the kinds left out."""
        none: dict[str, Any] = {f.name: 0 for f in fields(self) if rng.random() < 0.5}
        return replace(self, **none)

    def without(self, names: Sequence[str]) -> "Faults":
        """Return these without the noise called ``names``."""
        none: dict[str, Any] = dict.fromkeys(names, 0)
        return replace(self, **none)


ALL = Faults(
    loss=0.03,
    duplicate=0.03,
    late=0.05,
    crashes=3.0,
    cuts=2.0,
    pauses=1.0,
    resets=4.0,
    jumps=1.0,
    clones=0.5,
    rollbacks=0.5,
    skewed=0.5,
    drifting=0.5,
    slow=0.2,
    hidden=0.3,
    liars=1,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_s: true time at which it begins.
        kind: what it is: a name of ``KINDS``.
        host: number of the host it happens to.
        for_s: how long it lasts, where that means something.
        size: how much, in the unit of its kind.
        others: the hosts on the same side of a cut, or the other end of a reset.
    """

    at_s: float
    kind: str
    host: int
    for_s: float = 0.0
    size: float = 0.0
    others: tuple[int, ...] = ()

    def words(self, names: Sequence[str]) -> str:
        """Return one line for people; ``names`` are those of the hosts."""
        who = "".join(names[i] for i in (self.others or (self.host,)))
        lasting = f" for {self.for_s:.2f} s" if self.for_s else ""
        size = f" ({self.size:.3g})" if self.size else ""
        return f"{self.at_s:8.2f} s  {self.kind} {who}{lasting}{size}"


def plan(rng: random.Random, faults: Faults, hosts: int, until_s: float) -> list[Fault]:
    """Return what goes wrong before ``until_s`` among ``hosts``, in order of time."""
    found = [*_from_the_start(rng, faults, hosts)]
    for name, make in _KINDS.items():
        rate = getattr(faults, name) / 60
        at_s = rng.expovariate(rate) if rate else until_s
        while at_s < until_s:
            found.append(make(rng, at_s, hosts, until_s))
            at_s += rng.expovariate(rate)
    return sorted(found, key=lambda fault: fault.at_s)


def _from_the_start(rng: random.Random, faults: Faults, hosts: int) -> Iterator[Fault]:
    for i in range(hosts):
        if rng.random() < faults.skewed:
            yield Fault(0.0, "skew", i, size=rng.uniform(-DAY_S, DAY_S))
        if rng.random() < faults.drifting:
            yield Fault(0.0, "drift", i, size=rng.uniform(-0.05, 0.05))
        if rng.random() < faults.slow:
            yield Fault(0.0, "slow", i, size=rng.uniform(0.001, 0.05))
        if i and rng.random() < faults.hidden:  # the first one can always be dialled
            yield Fault(0.0, "hidden", i)
    for i in range(faults.liars):
        yield Fault(0.0, "lie", hosts - 1 - i, size=rng.randrange(1, 1 << 16))


Make = Callable[[random.Random, float, int, float], Fault]


def _crash(rng: random.Random, at_s: float, hosts: int, _until_s: float) -> Fault:
    size = rng.choice([0, 0, rng.randint(1, 12), -rng.randint(1, 12)])
    return Fault(at_s, "crash", rng.randrange(hosts), rng.expovariate(0.2), size)


def _cut(rng: random.Random, at_s: float, hosts: int, until_s: float) -> Fault:
    side = tuple(sorted(rng.sample(range(hosts), rng.randint(1, max(1, hosts // 2)))))
    for_s = rng.uniform(0.5, max(1.0, until_s / 3))
    return Fault(at_s, "cut", side[0], for_s, rng.choice([0, 0, 1, -1]), side)


def _pause(rng: random.Random, at_s: float, hosts: int, _until_s: float) -> Fault:
    return Fault(at_s, "pause", rng.randrange(hosts), rng.uniform(0.1, 30.0))


def _reset(rng: random.Random, at_s: float, hosts: int, _until_s: float) -> Fault:
    pair = rng.sample(range(hosts), 2) if hosts > 1 else [0, 0]
    return Fault(at_s, "reset", pair[0], others=tuple(pair))


def _jump(rng: random.Random, at_s: float, hosts: int, _until_s: float) -> Fault:
    return Fault(at_s, "jump", rng.randrange(hosts), size=rng.uniform(-DAY_S, DAY_S))


def _clone(rng: random.Random, at_s: float, hosts: int, until_s: float) -> Fault:
    for_s = rng.choice([0.0, rng.uniform(1.0, until_s / 2)])  # 0: it stays
    return Fault(at_s, "clone", rng.randrange(hosts), for_s)


def _rollback(rng: random.Random, at_s: float, hosts: int, _until_s: float) -> Fault:
    return Fault(at_s, "rollback", rng.randrange(hosts), rng.uniform(1.0, 20.0))


_KINDS: dict[str, Make] = {
    "crashes": _crash,
    "cuts": _cut,
    "pauses": _pause,
    "resets": _reset,
    "jumps": _jump,
    "clones": _clone,
    "rollbacks": _rollback,
}
