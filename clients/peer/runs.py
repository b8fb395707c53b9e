"""Runs of the mesh, on the node's side: what is trained, and what was added to it.

A run's model is replicated state: first weights that anybody can fetch, and integers
that every member adds to (``fedcore.orderfree``). The node adds and keeps; training
is a program of its own (``clients.peer.training``), so that it never holds up the node.
"""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clients.peer.control import Json, Say
from fedcore.errors import ConfigError, PeerLostError
from p2p.state.bodies import Run, RunFact
from p2p.state.chain import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from clients.peer.daemon import PeerNode

LATELY_S = 60.0  # a peer trains if it added something within so long


@dataclass(slots=True)
class Own:
    """What this peer has added to one run since its start.

    Attributes:
        facts: how often.
        loss: the mean training loss, when it last did.
        at_s: when that was, of the node's clock.
    """

    facts: int
    loss: float
    at_s: float


@dataclass
class Runs:
    """What ``fedcore peer train`` asks of the node.

    Attributes:
        node: the running node.
        own: by run, what this peer has added.
    """

    node: "PeerNode"
    own: dict[str, Own] = field(default_factory=dict)

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
        runs = self.node.driver.call(lambda _: (self.node.member.replica.view.runs, ()))
        if name not in runs:
            known = ", ".join(sorted(runs)) or "none yet"
            raise ConfigError(f"no run is called {name}; there are: {known}")
        return {"spec": runs[name].spec, "origin": runs[name].origin}

    def model(self, request: Json, say: Say) -> Json:
        """Return the integers of a run's model, int64 (E, K), as they are now."""
        _warm()

        def look(_: float) -> tuple[Json, Sequence[Any]]:
            replica = self.node.member.replica
            model = replica.models.model(request["run"])
            pen = replica.author.pen
            seq = model.register(pen.writer).seq if pen else 0
            facts = sum(register.seq for register in model.registers.values())
            return {"seq": seq, "facts": facts, **packed(model.coefficients())}, ()

        found: Json = self.node.driver.call(look)
        return found

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
            effects = replica.write([(Kind.FACT, body)])
            return None, self.node.member.mesh.do("state", now_s, effects)

        self.node.driver.call(write)
        before = self.own.get(run)
        count = before.facts + 1 if before else 1
        self.own[run] = Own(count, float(request["loss"]), time.monotonic())
        return {}

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
