"""What a federated algorithm is: pure functions over its own state.

A strategy does no I/O, reads no clock, keeps no hidden state and draws no
randomness except from seeds in its arguments. So the same object runs in a unit
test, in a simulation, behind a Flower SuperLink, and on every peer of a mesh,
and peers that apply the same updates in the same order hold the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from fedcore.names import PeerId as PeerId
from fedcore.params import Params


def peer_name(index: int) -> PeerId:
    """Return the name of simulated peer ``index``; names sort as indices do."""
    return f"peer-{index:06d}"


class AnyState(Protocol):
    """What every strategy's state has.

    Attributes:
        version: rounds folded into it.
        params: the one model to publish and evaluate.
    """

    @property
    def version(self) -> int: ...

    @property
    def params(self) -> Params: ...


State = TypeVar("State", bound=AnyState)


@dataclass(frozen=True, slots=True)
class Work:
    """What one peer is asked to do.

    Attributes:
        version: rounds already folded into ``params``; echoed in the ``Update``.
        params: the model to start from.
        steps: local batches to process, >= 1; or 0, and then ``epochs`` counts.
        epochs: passes over the peer's own examples, >= 1; used when ``steps`` is 0.
        aux: more tensors the trainer needs, such as SCAFFOLD's correction.
        hints: small extra settings for the trainer, such as a cluster number.
        kept: what this peer kept after its last answer (``Update.keep``). Put in by
            whoever runs the peer; it is not sent to it.
    """

    version: int
    params: Params
    steps: int = 0
    epochs: int = 1
    aux: Params = field(default_factory=dict)
    hints: Mapping[str, int | float | str] = field(default_factory=dict)
    kept: Params = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Update:
    """What one peer sends back.

    Attributes:
        peer: the sender; authenticated by the transport, never by the payload.
        version: the ``Work.version`` this was computed from.
        payload: the trainer's result: a model difference, or seeds and scalars.
            ``int64`` tensors are ring elements, already multiplied by the weight
            (see ``fedcore.ring``): the exact sum of many peers' differences.
        examples: training examples used; the weight in averages, >= 1.
        metrics: plain numbers for the log, such as ``loss``.
        keep: what the peer keeps for its next work, and nobody else sees: a personal
            head, the examples it has labelled. Empty leaves what it has. Tensors
            with the names of weights are the peer's own, in place of the model's.
    """

    peer: PeerId
    version: int
    payload: Params
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    keep: Params = field(default_factory=dict)


class Strategy(Protocol[State]):
    """The rules of one federated algorithm.

    Attributes:
        needs: ``"sum"`` if ``apply`` uses the updates only through their weighted
            mean, so that secure aggregation may replace them by one update;
            ``"each"`` if it must see them one by one (Krum, clustering).
    """

    @property
    def needs(self) -> Literal["sum", "each"]: ...

    def init(self, params: Params) -> State:
        """Return the state before the first round."""
        ...

    def work(self, state: State, peer: PeerId) -> Work:
        """Return what ``peer`` should do next."""
        ...

    def expects(self, work: Work) -> Params:
        """Return a tree with the names, shapes and dtypes of an answer to ``work``."""
        ...

    def apply(self, state: State, updates: Sequence[Update]) -> State:
        """Return the state after one round; ``updates`` is never empty.

        Pure: writes into none of its arguments. Updates arrive sorted by peer.
        """
        ...
