"""What the node tells, as text for people."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
LETTERS = 8  # of a peer id; the first ones are the same for all
WIDE = 64  # letters of a path that fit beside the rest
_ID = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")


def size(count: float) -> str:
    """Return a number of bytes in a fitting unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def span(seconds: float | None) -> str:
    """Return a time span in a fitting unit."""
    if seconds is None:
        return "-"
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def short(peer: str) -> str:
    """Return the part of a peer id that tells it from others."""
    return peer[-LETTERS:]


def shortened(words: str) -> str:
    """Return ``words`` with only the last letters of each peer id."""
    return _ID.sub(lambda found: found[0][-LETTERS:], words)


def status_lines(status: Json) -> str:
    """Return what ``fedcore peer status`` says."""
    traffic, state = status["traffic"], status["state"]
    rows = [
        ("peer", f"{status['name']} ({short(status['peer'])}), {status['role']}"),
        ("network", f"{status['network']['name']} ({status['network']['id'][:12]})"),
        ("state", f"{state}: {status['why']}"),
        ("members", f"{status['alive']} of {status['members']} here"),
        ("state hash", f"{status['root'][:16]}, {status['entries']} entries"),
        ("content", f"{status['contents_in_all']} items"),
        ("up, down", f"{size(traffic['up_bytes'])}, {size(traffic['down_bytes'])}"),
        ("running", span(status["uptime_s"])),
    ]
    rows += [("run", _run_words(run)) for run in status["runs"]]
    rows += [("page", status["page"])] if status.get("page") else []
    rows += [("fork", words) for words in status["forks"]]
    return "\n".join(f"{name:<11} {text}" for name, text in rows)


def _run_words(run: Json) -> str:
    loss = "" if run["loss"] is None else f", loss {run['loss']:.4f}"
    return f"{run['run']}: {run['additions']} additions, {run['own']} ours{loss}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return ``rows`` in columns below ``head``."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def peers_table(peers: Sequence[Json]) -> str:
    """Return who is there."""
    if not peers:
        return "nobody else is a member yet; invite somebody: fedcore peer invite"
    head = ("peer", "id", "role", "path", "rtt", "up", "down", "version", "seen")
    return table(head, [_peer_row(peer) for peer in peers])


def _peer_row(peer: Json) -> Sequence[str]:
    rtt_s = peer.get("rtt_s")
    return (
        peer["name"],
        short(peer["peer"]),
        peer["role"],
        path_words(peer["path"]),
        "-" if rtt_s is None else f"{1000 * rtt_s:.1f} ms",
        size(peer["up_bytes"]),
        size(peer["down_bytes"]),
        peer["version"] or "-",
        "now" if peer["alive"] else _ago(peer["seen_s"]),
    )


def path_words(words: str) -> str:
    """Return the way to a peer in words that fit into a table."""
    words = shortened(words)
    return words if len(words) <= WIDE else f"{words[: WIDE - 3]}..."


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{span(seconds)} ago"


def contents_table(status: Json) -> str:
    """Return what the network shares."""
    if not status["contents"]:
        return "nothing is shared yet; share a file: fedcore peer put FILE"
    head = ("content", "name", "kind", "size", "here", "from")
    text = table(head, [_content_row(item) for item in status["contents"]])
    more = status["contents_in_all"] - len(status["contents"])
    return f"{text}\nand {more} more" if more else text


def _content_row(item: Json) -> Sequence[str]:
    here = "all" if item["here"] else f"{100 * item['share']:.0f} %"
    kind, by = item["kind"], short(item["by"])
    return item["cid"], item["name"], kind, size(item["bytes"]), here, by


def notes_table(
    notes: Sequence[Json], local: Callable[[float], time.struct_time] = time.localtime
) -> str:
    """Return what happened, oldest first."""
    rows = [
        (
            time.strftime("%m-%d %H:%M:%S", local(note["at_s"])),
            note["kind"],
            short(note["peer"] or "-"),
            note["words"],
        )
        for note in notes
    ]
    return table(("when", "what", "who", ""), rows) if rows else "nothing yet"


def tunnels_table(found: Json, which: str) -> str:
    """Return what is "exposed" here, or which "forwards" lead to others."""
    if which == "exposed":
        if not found["exposed"]:
            return "nothing is exposed; expose a service: fedcore peer expose NAME AT"
        rows = [(s["service"], _at(s["host"], s["port"])) for s in found["exposed"]]
        return table(("service", "at"), rows)
    if not found["forwards"]:
        return "no port leads to others; open one: fedcore peer tunnel PEER NAME"
    ways = [
        (_at(f["host"], f["port"]), short(f["peer"]), f["name"])
        for f in found["forwards"]
    ]
    return table(("port", "peer", "service"), ways)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
