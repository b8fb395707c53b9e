"""How a late peer gets the model: the first weights, one short message, one pass.

The first weights are fetched by their digest, from wherever they are. The message is
the total (``8 K`` bytes an epoch or less, however long the training was and however
many peers there are), or the snapshot (``8 K`` a peer), from which a peer can go on:
merge, count facts, leave peers out. The weights are the same bits.
"""

from collections.abc import Collection
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.orderfree.facts import Origin
from fedcore.orderfree.judging import origin_fault
from fedcore.orderfree.messages import (
    Total,
    decode_total,
    hash_of,
    kind_of,
    read_snapshot,
)
from fedcore.orderfree.model import Model
from fedcore.params import Params, digest
from fedcore.pool import expand
from fedcore.strategy import PeerId


@dataclass(frozen=True, slots=True)
class Joined:
    """What a late peer has after it has joined.

    Attributes:
        weights: of the model.
        total: the coefficients, and the hash of the state they belong to.
        model: to go on from; None if only the total was sent.
    """

    weights: Params
    total: Total
    model: Model | None


def join(
    data: bytes,
    base: Params,
    sender: PeerId,
    wanted: Origin | None = None,
    frozen: Collection[str] = (),
) -> Joined:
    """Return the model that ``data``, a snapshot or a total, and ``base`` make.

    Args:
        data: from ``sender``, who is trusted as to the numbers, or has given the
            ``state`` that others name too.
        base: the first weights, in the names, shapes and dtypes of the model.
        sender: named where ``data`` is refused.
        wanted: pool, base and scale that we expect; None takes those of ``data``.
        frozen: names of tensors that stay as in ``base``, such as running statistics.

    Raises:
        ProtocolError: ``data`` is not sound, is about other first weights than
            ``base``, or about another pool or scale than ``wanted``.
    """
    try:
        total, model = _read(data)
        _check_origin(total.origin, base, wanted)
        moved = {name: t for name, t in base.items() if name not in frozen}
        origin, rows = total.origin, total.coefficients
        weights = {**base, **expand(origin.pool, rows, origin.scale, moved)}
    except ProtocolError as error:
        raise ProtocolError(f"{sender}: {error}") from error
    return Joined(weights, total, model)


def _check_origin(origin: Origin, base: Params, wanted: Origin | None) -> None:
    found = origin_fault(origin, wanted or origin)
    if found is not None:
        raise ProtocolError(found[1])
    ours = digest(base)
    if ours != origin.base:
        bases = f"{origin.base[:12]}, ours are {ours[:12]}"
        raise ProtocolError(f"built on other first weights: {bases}")


def _read(data: bytes) -> tuple[Total, Model | None]:
    if kind_of(data) != "S":
        return decode_total(data), None
    model = read_snapshot(data)
    return Total(model.origin, model.coefficients(), hash_of(model)), model
