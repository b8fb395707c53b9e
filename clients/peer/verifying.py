"""Checks everything a node keeps again, from the bytes on disk."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from clients.peer.control import Say
from clients.peer.tables import short, size
from fedcore.errors import FedError
from fedcore.names import PeerId
from p2p.state.chain import Tip, first_link, head_signed
from p2p.state.logs import Logs

if TYPE_CHECKING:
    from clients.peer.daemon import PeerNode

ROWS = 1024  # entries that are checked before others have their turn


def verified(node: "PeerNode", say: Say) -> dict[str, Any]:
    """Return what was found, in lines for people, and whether all is good."""
    faults = [*_logs(node, say), *_blobs(node, say)]
    status = node.status()
    held = sum(blob.whole for blob in node.member.shelf.blobs())
    lines = [
        f"{status['entries']} entries of {status['writers']} writers, {held} contents",
        f"state hash {status['root']}",
        *(faults or ["every signature, link and chunk is good"]),
    ]
    say({"words": ""})
    return {"good": not faults, "lines": lines, "root": status["root"]}


def _logs(node: "PeerNode", say: Say) -> list[str]:
    logs = node.member.replica.logs
    writers = node.driver.call(lambda _: (list(logs.by_writer), ()))
    faults = []
    for number, writer in enumerate(writers):
        say({"words": f"log {number + 1} of {len(writers)}"})
        tip = Tip(0, first_link(logs.network, writer))
        for _ in range(1 << 20):
            start = tip
            tip, fault = node.driver.call(partial(_looked, logs, writer, start))
            if fault:
                faults.append(f"log of {short(writer)}: {fault}")
            if fault or tip.length == start.length:
                break
    return faults


def _looked(
    logs: Logs, writer: PeerId, tip: Tip, _now_s: float
) -> tuple[tuple[Tip, str], tuple[()]]:
    return _further(logs, writer, tip), ()


def _further(logs: Logs, writer: PeerId, tip: Tip) -> tuple[Tip, str]:
    """Check the entries after ``tip``; return where that came to, and what is wrong."""
    log = logs.by_writer.get(writer)
    if log is None:
        return tip, ""  # it was let go meanwhile
    stop = min(log.tip.length, tip.length + ROWS)
    for entry, link in logs.store.rows(writer, tip.length, stop):
        tip = tip.plus(entry)
        signature = log.heads.get(tip.length)
        if tip.link != link:
            return tip, f"entry {tip.length} was changed on disk"
        if signature is not None and not head_signed(
            logs.network, writer, tip.length, tip.link, signature
        ):
            return tip, f"entry {tip.length} is not signed by its writer"
    return tip, ""


def _blobs(node: "PeerNode", say: Say) -> Iterator[str]:
    shelf = node.member.shelf
    for blob in [b for b in shelf.blobs() if b.whole]:
        done = 0
        try:
            for number, chunk in enumerate(shelf.chunks(blob.cid)):
                done += len(chunk)
                if number % 64 == 0:
                    total = size(blob.size_bytes)
                    say({"words": f"{blob.cid}: {size(done)} of {total}"})
        except FedError as error:
            yield f"content {blob.cid}: {error}"
