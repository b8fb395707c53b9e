"""Our ``Work`` and ``Update`` as Flower records, and back.

What a message holds, by key:

    work    ``arrays``  the model            ``work``    version, steps, epochs
            ``aux``     more tensors          ``hints``   settings for the trainer
                                              (a model may go by its name instead:
                                              ``fedcore.flower.bases``)
    update  ``arrays``  the payload          ``update``  version, examples
            ``metrics`` plain numbers, and ``num-examples`` as Flower names it

So a plain Flower client finds the model under the usual key, and a plain Flower
strategy finds the weight it looks for. ``fedcore.flower.trees`` packs the tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedcore.errors import ProtocolError
from fedcore.flower.bases import base_of
from fedcore.flower.trees import check_name, pack_tree, record_of, unpack_tree
from fedcore.params import Params
from fedcore.strategy import PeerId, Update, Work

MAX_ENTRIES = 256  # metrics or hints


def pack_work(work: Work, join: bool = True) -> RecordDict:
    """Return ``work`` as Flower records.

    Args:
        work: what to send.
        join: send many small tensors as few arrays; plain Flower clients cannot
            read those.
    """
    return pack_works([work], join)[0]


def pack_works(works: Sequence[Work], join: bool = True) -> list[RecordDict]:
    """Return each of ``works`` as records; works with one model share its arrays."""
    packed: dict[tuple[str, int], dict[str, Any]] = {}

    def tree(key: str, params: Params) -> dict[str, Any]:
        at = (key, id(params))
        if at not in packed:
            packed[at] = pack_tree(key, params, join)
        return packed[at]

    return [
        RecordDict(
            {
                "work": ConfigRecord(
                    {"version": w.version, "steps": w.steps, "epochs": w.epochs}
                ),
                **tree("arrays", w.params),
                **(tree("aux", w.aux) if w.aux else {}),
                **({"hints": ConfigRecord(dict(w.hints))} if w.hints else {}),
            }
        )
        for w in works
    ]


def unpack_work(records: RecordDict) -> Work:
    """Return the ``Work`` that ``pack_work`` packed; no ``params`` if they are named.

    Raises:
        ProtocolError: the records are not such work.
    """
    head = record_of(records, "work", ConfigRecord)
    hints = record_of(records, "hints", ConfigRecord) if "hints" in records else {}
    aux = unpack_tree(records, "aux") if "aux" in records else {}
    only_named = base_of(records) is not None and "arrays" not in records
    return Work(
        version=whole(head, "version"),
        params={} if only_named else unpack_tree(records, "arrays"),
        steps=whole(head, "steps"),
        epochs=whole(head, "epochs", least=1),
        aux=aux,
        hints=_hints(hints),
    )


def pack_update(update: Update, join: bool = True) -> RecordDict:
    """Return ``update`` as Flower records; Flower's metadata carries the sender."""
    head = ConfigRecord({"version": update.version, "examples": update.examples})
    numbers = {k: float(v) for k, v in update.metrics.items()}
    metrics = MetricRecord({**numbers, "num-examples": update.examples})
    tree = pack_tree("arrays", update.payload, join)
    return RecordDict({"update": head, "metrics": metrics, **tree})


def unpack_update(peer: PeerId, records: RecordDict) -> Update:
    """Return the ``Update`` in ``records``, which Flower says came from ``peer``.

    Raises:
        ProtocolError: the records are not such an update; the message says why.
    """
    head = record_of(records, "update", ConfigRecord)
    return Update(
        peer=peer,
        version=whole(head, "version"),
        payload=unpack_tree(records, "arrays"),
        examples=whole(head, "examples", least=1),
        metrics=numbers_of(record_of(records, "metrics", MetricRecord)),
    )


def whole(record: Mapping[str, Any], key: str, least: int = 0) -> int:
    """Return the whole number ``key`` of ``record``, in [``least``, 2^63).

    Raises:
        ProtocolError: it is missing, of another type, or out of range.
    """
    value = record.get(key)
    if type(value) is not int or not least <= value < 2**63:
        raise ProtocolError(f"{key!r} must be a whole number >= {least}: {value!r:.40}")
    return value


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars of ``metrics``, without Flower's weight and without lists.

    Raises:
        ProtocolError: too many entries, or a name too long.
    """
    if len(metrics) > MAX_ENTRIES:
        raise ProtocolError(f"{len(metrics)} metrics; at most {MAX_ENTRIES}")
    for name in metrics:
        check_name(name)
    return {
        name: float(value)
        for name, value in metrics.items()
        if type(value) in (int, float) and name != "num-examples"
    }


def _hints(record: Mapping[str, Any]) -> dict[str, int | float | str]:
    if len(record) > MAX_ENTRIES:
        raise ProtocolError(f"{len(record)} hints; at most {MAX_ENTRIES}")
    for name, value in record.items():
        check_name(name)
        if type(value) not in (int, float, str):
            raise ProtocolError(f"hint {name!r} is neither a number nor a word")
    return dict(record)
