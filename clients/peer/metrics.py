"""A node's figures in the text form that Prometheus reads.

A figure of a peer is labelled with its id alone, so that its series goes on whatever
the peer calls itself and however it is reached; ``fedcore_peer_info`` has the rest, to
be joined by ``* on(peer) group_left(name, path) fedcore_peer_info``.
"""

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
}


def as_prometheus(status: Json) -> str:
    """Return ``status``, as from ``Report.status``, one figure a line."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: Json) -> Iterator[str]:
    for name, about in GAUGES.items():
        yield from _head(name, "gauge", about)
        yield f"fedcore_{name} {status[name]}"
    yield from _head("uptime_seconds", "gauge", "Seconds since the start.")
    yield f"fedcore_uptime_seconds {status['uptime_s']:.3f}"
    yield from _head("state", "gauge", "1 for the state that the node is in.")
    for state in STATES:
        yield f'fedcore_state{{state="{state}"}} {int(status["state"] == state)}'
    yield from _head("forks", "gauge", "Logs that are frozen: two stories were told.")
    yield f"fedcore_forks {len(status['forks'])}"
    yield from _head("peer_info", "gauge", "1; what a peer is called, its path now.")
    for peer in status["peers"]:
        name, way = _escaped(peer["name"]), _escaped(_way(peer))
        label = f'peer="{peer["peer"]}",name="{name}",path="{way}"'
        yield f"fedcore_peer_info{{{label}}} 1"
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
    yield f"fedcore_content_bytes {status['content_bytes']}"


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP fedcore_{name} {about}"
    yield f"# TYPE fedcore_{name} {kind}"


def _label(peer: Json) -> str:
    return f'{{peer="{peer["peer"]}"}}'


def _way(peer: Json) -> str:
    """Return the first word of the path, such as "direct" or "relayed"."""
    return str(peer["path"]).split(" ", 1)[0].rstrip(":")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
