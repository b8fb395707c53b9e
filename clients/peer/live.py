"""The live view of ``fedcore peer up --watch``."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clients.peer.tables import path_words, short, size, span
from fedcore.errors import FedError

COLOURS = {
    "training": "magenta",
    "direct": "green",
    "relayed": "yellow",
    "joining": "cyan",
    "waiting": "red",
}
MOST_NOTES = 6
Status = Mapping[str, Any]


def watch(
    status: Callable[[], Status],
    notes: Callable[[int], Any],
    rest: Callable[[], bool],
    console: Console | None = None,
) -> None:
    """Show the node until ``rest`` says that it ends.

    Args:
        status: what the node says of itself.
        notes: returns the newest notes, as many as asked for.
        rest: waits a moment; returns whether to go on.
        console: where to draw; the terminal if None.
    """
    with Live(console=console, auto_refresh=False) as live:
        while rest():
            with suppress(FedError):  # it is busy, or has ended
                live.update(view(status(), notes(MOST_NOTES)), refresh=True)


def view(status: Status, notes: Any) -> Group:
    """Return one picture of the node."""
    state, traffic = status["state"], status["traffic"]
    head = Text.assemble(
        (f"{status['name']} ", "bold"),
        f"in {status['network']['name']} as {status['role']}   ",
        (state, f"bold {COLOURS.get(state, 'white')}"),
        f": {status['why']}",
    )
    facts = Text(
        f"state {status['root'][:16]}, {status['entries']} entries   "
        f"up {size(traffic['up_bytes_s'])}/s ({size(traffic['up_bytes'])})   "
        f"down {size(traffic['down_bytes_s'])}/s ({size(traffic['down_bytes'])})   "
        f"memory {size(status['memory_bytes'])}   running {span(status['uptime_s'])}",
        style="dim",
    )
    lines = [Text(f"{n['kind']}: {n['words']}", style="dim") for n in notes]
    return Group(head, facts, _peers(status), *_contents(status), *lines)


def _peers(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("peer", "id", "role", "path", "rtt", "up/s", "down/s", "seen"):
        table.add_column(name)
    for peer in status["peers"]:
        rtt_s = peer["rtt_s"]
        table.add_row(
            peer["name"],
            short(peer["peer"]),
            peer["role"],
            Text(path_words(peer["path"]), style=_colour(peer)),
            "-" if rtt_s is None else f"{1000 * rtt_s:.1f} ms",
            size(peer["up_bytes_s"]),
            size(peer["down_bytes_s"]),
            "now" if peer["alive"] else span(peer["seen_s"]),
        )
    return table


def _colour(peer: Mapping[str, Any]) -> str:
    word = str(peer["path"]).split(" ", 1)[0].rstrip(":")
    return COLOURS.get(word, "dim")


def _contents(status: Status) -> list[Text]:
    coming = [c for c in status["contents"] if not c["here"]]
    return [
        Text(f"fetching {c['name']}: {100 * c['share']:.0f} % of {size(c['bytes'])}")
        for c in coming[:3]
    ]
