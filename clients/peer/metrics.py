"""A node's figures in the text form that Prometheus reads."""

from collections.abc import Iterator, Mapping
from typing import Any

STATES = ("waiting", "joining", "relayed", "direct", "training")
Json = Mapping[str, Any]

GAUGES = {
    "members": "Members of the network.",
    "alive": "Members that gave a sign of life lately, this one too.",
    "entries": "Entries of the replicated state.",
    "writers": "Logs of the replicated state.",
    "memory_bytes": "Memory of the node.",
    "uptime_s": "Seconds since the start.",
}


def as_prometheus(status: Json) -> str:
    """Return ``status``, as from ``Report.status``, one figure a line."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: Json) -> Iterator[str]:
    for name, about in GAUGES.items():
        yield from _head(name, "gauge", about)
        yield f"fedcore_{name} {status[name]:g}"
    yield from _head("state", "gauge", "1 for the state that the node is in.")
    for state in STATES:
        yield f'fedcore_state{{state="{state}"}} {int(status["state"] == state)}'
    yield from _head("forks", "gauge", "Logs that are frozen: two stories were told.")
    yield f"fedcore_forks {len(status['forks'])}"
    for way, about in (("up", "Bytes sent to a peer."), ("down", "Bytes received.")):
        yield from _head(f"{way}_bytes_total", "counter", about)
        for peer in status["peers"]:
            label = _label(peer)
            yield f"fedcore_{way}_bytes_total{label} {peer[f'{way}_bytes']}"
    yield from _head("rtt_seconds", "gauge", "Round trip on the data channel.")
    for peer in status["peers"]:
        if peer["rtt_s"] is not None:
            yield f"fedcore_rtt_seconds{_label(peer)} {peer['rtt_s']:.6f}"
    yield from _head("notes_total", "counter", "What happened, by kind.")
    for kind, count in sorted(status["counts"].items()):
        yield f'fedcore_notes_total{{kind="{_escaped(kind)}"}} {count}'
    yield from _head("run_additions", "gauge", "What all peers added to a run.")
    for run in status["runs"]:
        label = f'{{run="{_escaped(run["run"])}"}}'
        yield f"fedcore_run_additions{label} {run['additions']}"
    yield from _head("content_bytes", "gauge", "Content that is here, in bytes.")
    here = sum(item["bytes"] for item in status["contents"] if item["here"])
    yield f"fedcore_content_bytes {here}"


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP fedcore_{name} {about}"
    yield f"# TYPE fedcore_{name} {kind}"


def _label(peer: Json) -> str:
    way = str(peer["path"]).split(" ", 1)[0].rstrip(":")
    name = _escaped(peer["name"])
    return f'{{peer="{peer["peer"]}",name="{name}",path="{_escaped(way)}"}}'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
