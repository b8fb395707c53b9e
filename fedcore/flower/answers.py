"""Answers of ordinary Flower clients as updates, and means of their metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flwr.app import ArrayRecord, MetricRecord, RecordDict

from fedcore.errors import ProtocolError
from fedcore.flower.records import numbers_of, unpack_update, whole
from fedcore.flower.trees import record_of, tensor_of
from fedcore.params import Params, sub
from fedcore.strategy import PeerId, Update, Work

Returns = Literal["model", "difference"]


def update_of(
    peer: PeerId, records: RecordDict, work: Work, returns: Returns
) -> Update:
    """Return the answer of ``peer`` to ``work`` as an update.

    Our own clients' answers say all by themselves. Others hold one ArrayRecord, the
    trained model or its difference from the model sent, and one MetricRecord with
    ``num-examples``; tensors that are not floating-point are left out.

    Raises:
        ProtocolError: the records are neither.
    """
    if "update" in records:
        return unpack_update(peer, records)
    metrics, arrays = the_only(records, MetricRecord), the_only(records, ArrayRecord)
    tree = {name: tensor_of(name, array) for name, array in arrays.items()}
    payload: Params = {n: t for n, t in tree.items() if t.is_floating_point()}
    if returns == "model":
        payload = _moved(payload, work.params)
    return Update(peer, work.version, payload, weight_of(metrics), numbers_of(metrics))


def _moved(model: Params, start: Params) -> Params:
    """Return ``model - start`` if they have the same names, shapes and dtypes."""
    if model.keys() != start.keys():
        odd = sorted(model.keys() ^ start.keys())[0]
        raise ProtocolError(f"{odd!r} is in the model or in the answer, not in both")
    for name, t in model.items():
        if t.shape != start[name].shape or t.dtype != start[name].dtype:
            raise ProtocolError(
                f"{name!r} came as {t.dtype} {tuple(t.shape)}, not as "
                f"{start[name].dtype} {tuple(start[name].shape)}"
            )
    return sub(model, start)


def the_only(records: RecordDict, kind: type[Any]) -> Any:
    """Return the one record of type ``kind``, whatever its key.

    Raises:
        ProtocolError: there is none, or more than one.
    """
    keys = [key for key, record in records.items() if isinstance(record, kind)]
    if len(keys) != 1:
        raise ProtocolError(f"needs exactly one {kind.__name__}, found {len(keys)}")
    return record_of(records, keys[0], kind)


def weight_of(metrics: Mapping[str, Any]) -> int:
    """Return ``num-examples``, >= 1; Flower clients also send it as a float.

    Raises:
        ProtocolError: it is missing or not a whole number.
    """
    value = metrics.get("num-examples")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return whole({"num-examples": value}, "num-examples", least=1)


def mean_metrics(answers: Sequence[tuple[int, Mapping[str, float]]]) -> MetricRecord:
    """Return the means, weighted by examples, of the metrics that all answers have."""
    total = sum(examples for examples, _ in answers)
    shared = set.intersection(*(set(metrics) for _, metrics in answers))
    means = {
        name: sum(n * metrics[name] for n, metrics in answers) / total
        for name in sorted(shared)
    }
    return MetricRecord({**means, "num-examples": total})
