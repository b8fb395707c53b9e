"""Flower records as a JSON head and raw bytes, between processes of one machine."""

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

KINDS = {"metric": MetricRecord, "config": ConfigRecord}


def split(records: RecordDict) -> tuple[Any, list[bytes]]:
    """Return ``records`` as a JSON value that refers to a list of bytes."""
    blobs: list[bytes] = []

    def place(data: bytes) -> int:
        blobs.append(data)
        return len(blobs) - 1

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": place(value)}
        return [plain(v) for v in value] if isinstance(value, list) else value

    head: list[tuple[str, str, Any]] = []
    for key, record in records.items():
        if isinstance(record, ArrayRecord):
            rows = [
                (name, a.dtype, a.shape, a.stype, place(a.data))
                for name, a in record.items()
            ]
            head.append((key, "array", rows))
        else:
            kind = "metric" if isinstance(record, MetricRecord) else "config"
            head.append((key, kind, {n: plain(v) for n, v in record.items()}))
    return head, blobs


def joined(head: Any, blobs: list[bytes]) -> RecordDict:
    """Return the records that ``split`` took apart."""

    def value_of(value: Any) -> Any:
        if isinstance(value, dict):
            return blobs[value["bytes"]]
        return [value_of(v) for v in value] if isinstance(value, list) else value

    records = RecordDict()
    for key, kind, rows in head:
        if kind == "array":
            records[key] = ArrayRecord(
                {n: Array(d, tuple(s), t, blobs[i]) for n, d, s, t, i in rows}
            )
        else:
            records[key] = KINDS[kind]({n: value_of(v) for n, v in rows.items()})
    return records
