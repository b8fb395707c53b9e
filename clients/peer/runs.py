"""Runs of the mesh, on the node's side: what is trained, and what was added to it.

A run's model is replicated state: first weights that anybody can fetch, and integers
that every member adds to (``fedcore.orderfree``). The node adds and keeps; training
is a program of its own (``clients.peer.training``), so that it never holds up the node.
"""

import base64
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clients.peer.control import Json, Say
from clients.peer.deeds import peer_called, seen, write
from fedcore.errors import ConfigError, PeerLostError
from fedcore.names import PeerId
from p2p.state.bodies import Run, RunFact
from p2p.state.chain import BODY_BYTES, Kind
from p2p.state.said import Place

if TYPE_CHECKING:
    from torch import Tensor

    from clients.peer.daemon import PeerNode

MOST_LOSSES = 300
LATELY_S = 60.0  # a peer trains if it added something within so long


@dataclass(slots=True)
class Own:
    """What this peer has added to one run since its start.

    Attributes:
        losses: the mean training loss each time, the last few hundred.
        at_s: when it last did, of the node's clock.
    """

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_LOSSES))
    at_s: float = 0.0

    @property
    def loss(self) -> float:
        """The mean training loss when it last added something."""
        return self.losses[-1]


@dataclass(slots=True)
class _Counted:
    """Additions of a run by peer, as far as somebody looked."""

    places: Sequence[Place] = ()
    size: int = 0
    by: Counter[PeerId] = field(default_factory=Counter)


@dataclass
class Runs:
    """What ``fedcore peer train`` asks of the node.

    Attributes:
        node: the running node.
        own: by run, what this peer has added.
    """

    node: "PeerNode"
    own: dict[str, Own] = field(default_factory=dict)
    _counted: dict[str, _Counted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A copy of our disk can make the machine write our facts again at any time.
        if seen(self.node, lambda _: self._has_own()):
            threading.Thread(target=_warm, name="warm", daemon=True).start()

    def _has_own(self) -> bool:
        runs, me = self.node.member.replica.view.runs, self.node.home.me
        return any(self.added_by(run)[me] for run in runs)

    def found(self, request: Json, say: Say) -> Json:
        """Begin a run; for admins."""
        name, replica = request["run"], self.node.member.replica

        def write(now_s: float) -> tuple[None, Sequence[Any]]:
            if name in replica.view.runs:
                raise ConfigError(f"there is a run {name} already; choose another name")
            lamport = replica.view.lamport + 1
            run = Run(name, lamport, request["spec"], request["origin"])
            effects = replica.write([(Kind.RUN, run.encode())])
            return None, self.node.member.mesh.do("state", now_s, effects)

        self.node.driver.call(write)
        return {}

    def described(self, request: Json, say: Say) -> Json:
        """Return what a run is."""
        name = request["run"]
        runs = seen(self.node, lambda _: self.node.member.replica.view.runs)
        if name not in runs:
            known = ", ".join(sorted(runs)) or "none yet"
            raise ConfigError(f"no run is called {name}; there are: {known}")
        return {"spec": runs[name].spec, "origin": runs[name].origin}

    def model(self, request: Json, say: Say) -> Json:
        """Return the integers of a run's model, int64 (E, K), as they are now."""
        _warm()

        def look(_: float) -> Json:
            replica = self.node.member.replica
            model = replica.models.model(request["run"])
            pen = replica.author.pen
            seq = model.register(pen.writer).seq if pen else 0
            facts = sum(register.seq for register in model.registers.values())
            return {"seq": seq, "facts": facts, **packed(model.coefficients())}

        return seen(self.node, look)

    def contribute(self, request: Json, say: Say) -> Json:
        """Add to a run's model what this peer's trainer found."""
        _warm()
        run, amounts = request["run"], unpacked(request)[0]

        def write(now_s: float) -> tuple[None, Sequence[Any]]:
            from fedcore.orderfree import encode_fact, fact_of

            replica = self.node.member.replica
            pen = replica.author.pen
            if pen is None or not replica.ready:
                raise PeerLostError("the node has not caught up with the others yet")
            fact = fact_of(replica.models.model(run), pen.writer, amounts)
            body = RunFact(run, encode_fact(fact)).encode()
            if len(body) > BODY_BYTES:
                raise ConfigError(
                    f"an addition of {len(body)} bytes, above {BODY_BYTES}: begin a "
                    "run with a smaller strategy.size, or a larger strategy.lr"
                )
            effects = replica.write([(Kind.FACT, body)])
            return None, self.node.member.mesh.do("state", now_s, effects)

        self.node.driver.call(write)
        own = self.own.setdefault(run, Own())
        own.losses.append(float(request["loss"]))
        own.at_s = time.monotonic()
        return {}

    def withdraw(self, request: Json, say: Say) -> Json:
        """Leave out of a run's model all that a member added to it; for admins."""
        if self.node.home.opening.role != "admin":
            raise ConfigError("only admins withdraw what a member added")
        _warm()
        run, peer = request["run"], peer_called(self.node, request["peer"])
        bodies = seen(self.node, lambda _: self._withdrawals(run, peer))
        if not bodies:
            raise ConfigError(f"{peer} has added nothing to {run}")
        write(self.node, [(Kind.FACT, body) for body in bodies])
        return {"peer": peer}

    def _withdrawals(self, run: str, peer: PeerId) -> list[bytes]:
        from fedcore.orderfree import Withdrawal, encode_fact

        replica = self.node.member.replica
        model, logs = replica.models.model(run), replica.logs.by_writer
        said = [
            Withdrawal(model.origin, writer)
            for writer in sorted(model.registers)
            if (opening := logs[writer].opening) and opening.peer == peer
        ]
        return [RunFact(run, encode_fact(one)).encode() for one in said]

    def added_by(self, run: str) -> Counter[PeerId]:
        """Return how often each peer added to ``run``. In the machine's thread."""
        replica = self.node.member.replica
        facts, counted = replica.view.facts.get(run), self._counted.get(run)
        if facts is None:
            return Counter()
        if counted is None or counted.places is not facts.places:
            counted = self._counted[run] = _Counted(facts.places)
        for place in facts[counted.size :]:
            opening = replica.logs.by_writer[place.writer].opening
            counted.by[opening.peer if opening else place.writer] += 1
        counted.size = len(facts)
        return counted.by

    def lately(self) -> Mapping[str, Own]:
        """Return the runs that this peer has just added to."""
        early_s = time.monotonic() - LATELY_S
        return {name: own for name, own in self.own.items() if own.at_s > early_s}


def _warm() -> None:
    """Load torch here, in the asker's thread: the machine's must not wait for it."""
    import fedcore.orderfree  # noqa: F401


def packed(line: "Tensor") -> Json:
    """Return integers, int64, as plain data for JSON."""
    raw = line.contiguous().numpy().astype("<i8").tobytes()
    return {"shape": list(line.shape), "values": base64.b64encode(raw).decode()}


def unpacked(request: Json) -> "Tensor":
    """Return the integers that ``packed`` packed."""
    import numpy as np
    import torch

    raw = base64.b64decode(request["values"], validate=True)
    values = np.frombuffer(raw, "<i8").astype(np.int64)
    return torch.from_numpy(values.reshape(request["shape"]))
