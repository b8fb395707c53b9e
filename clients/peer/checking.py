"""``fedcore peer doctor``: is this peer healthy? What was found, and how to mend it."""

import argparse
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clients.peer.asking import home_of
from clients.peer.control import ask
from clients.peer.settings import PeerSettings, read_settings
from clients.peer.tables import size
from fedcore.checks import Check, clock, package, told
from fedcore.errors import FedError

FREE_BYTES = 2_000_000_000
DIAL_S = 3.0
FLOORS = {"libp2p": "0.8.1", "trio": "0.30", "cryptography": "46"}


def doctor(args: argparse.Namespace) -> int:
    """Print all findings; 1 if one is a failure."""
    return told(checks(home_of(args)), sys.stdout.write, args.json)


def checks(folder: Path) -> Iterator[Check]:
    """Yield what can be found about the peer in ``folder``, running or not."""
    for name, floor in FLOORS.items():
        yield package(name, floor, "pip install --upgrade 'fedcore[mesh]'")
    yield clock(time.time(), "invites are refused by wrong ones")
    try:
        from clients.peer.home import load

        home = load(folder)
        settings = read_settings(folder, {})
    except FedError as error:
        yield Check("folder", "FAIL", str(error))
        return
    role, name = home.opening.role, home.opening.founding.name
    yield Check("folder", "PASS", f"{folder}: {role} of {name}")
    yield _room(folder, settings)
    for address in dict.fromkeys([*settings.find.relays, *settings.find.bootstrap]):
        yield _dialled(address)
    yield from _node(folder)


def _room(folder: Path, settings: PeerSettings) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{size(free)} free, up to {settings.limit.disk_gb:g} GB are lent"
    if free < FREE_BYTES:
        return Check("disk", "WARN", text, "free some, or lower limit.disk_gb")
    return Check("disk", "PASS", text)


def _dialled(address: str) -> Check:
    """Try the TCP connection that a multiaddr names."""
    parts = address.split("/")
    try:
        host, port = parts[2], int(parts[parts.index("tcp") + 1])
    except (ValueError, IndexError):
        fix = "write it as /ip4/192.0.2.7/tcp/4001/p2p/12D3..."
        return Check("address", "FAIL", f"{address} is none", fix)
    try:
        socket.create_connection((host, port), DIAL_S).close()
    except OSError as error:
        fix = "is it up, and may this network reach it? Others are used meanwhile"
        return Check("address", "WARN", f"{address}: {error}", fix)
    return Check("address", "PASS", f"{address} takes connections")


def _node(folder: Path) -> Iterator[Check]:
    try:
        status = ask(folder, {"do": "status"})
        network = ask(folder, {"do": "netcheck"})
    except FedError as error:
        yield Check("node", "WARN", "does not run", str(error))
        return
    yield _state(status)
    yield Check("router", "PASS", network["lines"][0].removeprefix("router").strip())
    for fork in status["forks"]:
        fix = "two copies of one peer's folder ran; delete one of them"
        yield Check("fork", "WARN", fork, fix)
    for item in status["contents"]:
        if item["failed"]:
            yield Check("content", "WARN", f"{item['name']}: {item['failed']}")


def _state(status: Mapping[str, Any]) -> Check:
    words = f"{status['state']}: {status['why']}"
    if status["state"] != "waiting" or status["members"] <= 1:
        return Check("node", "PASS", words)
    fix = "see `fedcore peer peers` for what is tried with each, and `netcheck`"
    return Check("node", "WARN", words, fix)
