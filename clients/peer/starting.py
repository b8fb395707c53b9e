"""The commands that make, run and delete a node."""

import argparse
import shutil
import signal
import sys
import threading
from pathlib import Path

from clients.peer import home as homes
from clients.peer.asking import agreed, home_of
from clients.peer.settings import FILE, PeerSettings, Relay, read_settings
from clients.peer.tables import short
from fedcore.config import from_flags
from fedcore.subcommands import say

UNIT = """\
# Save as /etc/systemd/system/fedcore-peer.service, then:
#   systemctl daemon-reload && systemctl enable --now fedcore-peer
[Unit]
Description=Fedcore peer
Wants=network-online.target
After=network-online.target
# Gone once this peer has left its network.
ConditionPathExists={home}/key

[Service]
ExecStart={program} peer up --home "{home}"
User={user}
Restart=on-failure
RestartSec=5
TimeoutStopSec=30
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths="{home}"

[Install]
WantedBy=multi-user.target
"""


def _settings(args: argparse.Namespace, folder: Path) -> PeerSettings:
    return read_settings(folder, from_flags(args.set))


def init(args: argparse.Namespace) -> int:
    """Found a network."""
    folder = home_of(args)
    home = homes.make(folder, _settings(args, folder), args.network)
    say(f"network {args.network} ({home.network[:12]}), first peer {short(home.me)}")
    say(
        "now: fedcore peer up       and, in another terminal: fedcore peer invite\n"
        f"settings are in {folder / FILE}"
    )
    return 0


def join_network(args: argparse.Namespace) -> int:
    """Join a network with an invite."""
    from p2p.identity.invites import read_invite

    text = sys.stdin.readline() if args.invite == "-" else args.invite
    folder, invite = home_of(args), read_invite(text.strip())
    home = homes.join(folder, _settings(args, folder), invite)
    say(f"peer {short(home.me)}, {invite.role} of {invite.name}")
    say("now: fedcore peer up")
    return 0


def up(args: argparse.Namespace) -> int:
    """Run the node until SIGTERM or Ctrl-C."""
    from clients.peer.daemon import PeerNode

    folder = home_of(args)
    home = homes.load(folder)
    with homes.locked(folder):
        settings = homes.with_ports(home, _settings(args, folder))
        stop = _stopped_by_signals()
        with PeerNode(home, settings, say) as node:
            if args.watch:
                from clients.peer.live import watch

                watch(node.status, node.notes.newest, lambda: node.goes_on(stop))
            node.wait(stop)
    return 0


def unit(args: argparse.Namespace) -> int:
    """Print a systemd unit."""
    import getpass

    program = shutil.which("fedcore") or f"{sys.executable} -m fedcore"
    folder = str(home_of(args).resolve()).replace("%", "%%")
    say(UNIT.format(program=program, home=folder, user=getpass.getuser()).rstrip())
    return 0


def forget_all(args: argparse.Namespace) -> int:
    """Delete this peer."""
    folder = home_of(args)
    rest = homes.is_rest(folder)
    home = None if rest else homes.load(folder)
    if not args.yes:
        who = f"peer {short(home.me)} of {home.opening.founding.name}" if home else ""
        agreed(
            f"This deletes {who or 'what a peer has left'}, its key and all it keeps "
            f"in {folder}."
        )
    homes.forget(folder)
    say(f"deleted: {folder}")
    return 0


def relay(args: argparse.Namespace) -> int:
    """Run a relay until SIGTERM or Ctrl-C."""
    from clients.peer.serving import run_relay

    stop = _stopped_by_signals()
    settings = Relay(True, args.data_port, args.address, args.circuit_gb, args.circuits)
    key = homes.relay_key(home_of(args) / "relay")
    run_relay(key, args.listen, args.port, settings, say, stop)
    return 0


def _stopped_by_signals() -> threading.Event:
    """Return what is set when the user or the system wants us to end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
