"""The commands that speak with the running node."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clients.peer import home as homes
from clients.peer.control import Json, ask
from clients.peer.tables import (
    contents_table,
    notes_table,
    peers_table,
    status_lines,
    tunnels_table,
)
from fedcore.errors import ConfigError
from fedcore.subcommands import say

Args = argparse.Namespace
MOST_DAYS = 3650


def home_of(args: Args) -> Path:
    """Return the peer's folder that the user means."""
    return args.home or homes.usual_home()


def _asked(args: Args, do: str, **more: Any) -> Json:
    folder = home_of(args)
    homes.check(folder)
    return ask(folder, {"do": do} | more, progress)


def progress(what: Json) -> None:
    """Show how far it is, on one line of a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what['words']}\x1b[K")
        sys.stderr.flush()


def _shown(args: Args, found: Json, text: str) -> int:
    say(json.dumps(found) if getattr(args, "json", False) else text)
    return 0


def status(args: Args) -> int:
    """Say what the node is doing, and why."""
    found = _asked(args, "status")
    return _shown(args, found, status_lines(found))


def peers(args: Args) -> int:
    """Say who is there."""
    found = _asked(args, "status")
    return _shown(args, {"peers": found["peers"]}, peers_table(found["peers"]))


def log(args: Args) -> int:
    """Say what happened."""
    found = _asked(args, "notes")
    return _shown(args, found, notes_table(found["notes"]))


def invite(args: Args) -> int:
    """Make an invite."""
    if not 0 < args.days <= MOST_DAYS:
        raise ConfigError(f"--days must be above 0 and at most {MOST_DAYS}")
    found = _asked(args, "invite", role=args.role, lasts_s=args.days * 86400)
    text = found["invite"]
    if args.svg:
        from p2p.identity.qr import svg_qr

        args.svg.write_text(svg_qr(text), "utf-8")
    if args.qr:
        from p2p.identity.qr import terminal_qr

        sys.stderr.write(terminal_qr(text) + "\n")
    if not args.json:
        sys.stderr.write(
            f"Whoever holds this line may join as {found['role']} until "
            f"{found['until']}:\n    fedcore peer join INVITE && fedcore peer up\n"
            f"To end that earlier: fedcore peer revoke {found['id']}\n"
        )
        if found["lacks"]:
            sys.stderr.write(f"Note: {found['lacks']}\n")
    return _shown(args, found, text)


def ping(args: Args) -> int:
    """Say how long a peer takes to answer."""
    found = _asked(args, "ping", peer=args.peer, count=args.count)
    times = sorted(1000 * s for s in found["took_s"])
    if not times:
        raise ConfigError(f"{args.peer} did not answer: {found['why']}")
    text = (
        f"{found['peer']} by {found['path']}: {len(times)} of {args.count} answered, "
        f"{times[0]:.1f} / {times[len(times) // 2]:.1f} / {times[-1]:.1f} ms "
        "(least / median / most)"
    )
    return _shown(args, found, text)


def netcheck(args: Args) -> int:
    """Say what kind of router we are behind."""
    found = _asked(args, "netcheck")
    return _shown(args, found, "\n".join(found["lines"]))


def put(args: Args) -> int:
    """Share a file."""
    found = _asked(
        args, "put", file=str(args.file.resolve()), name=args.name or args.file.name
    )
    return _shown(args, found, found["cid"])


def get(args: Args) -> int:
    """Fetch what others share."""
    out = str(args.out.resolve()) if args.out else None
    found = _asked(args, "get", content=args.content, out=out)
    text = f"{found['cid']}: {found['bytes']} bytes" + (f" in {out}" if out else "")
    return _shown(args, found, text)


def listing(args: Args) -> int:
    """List what the network shares."""
    found = _asked(args, "status")
    return _shown(args, {"contents": found["contents"]}, contents_table(found))


def expose(args: Args) -> int:
    """Let members reach a service, or no longer; or list what they reach."""
    if args.service is None:
        return _shown_tunnels(args, "exposed")
    host, _, port = (args.at or "").rpartition(":")
    if args.off == bool(args.at) or (args.at and not (host and port.isdigit())):
        raise ConfigError(
            "write NAME HOST:PORT, such as web 127.0.0.1:80; or NAME --off"
        )
    more = {"host": host.strip("[]"), "port": int(port or 0), "off": args.off}
    _asked(args, "expose", service=args.service, **more)
    if args.off:
        say(f"{args.service} is exposed no more")
    else:
        say(f"members reach {args.at} as {args.service} whenever this node runs")
    return 0


def tunnel(args: Args) -> int:
    """Open a port that leads to a service of a member, or close it; or list them."""
    if args.peer is None:
        return _shown_tunnels(args, "forwards")
    if args.service is None:
        raise ConfigError(
            "write PEER NAME: who exposes it, and what it is called there"
        )
    more = {"peer": args.peer, "port": args.port, "off": args.off}
    found = _asked(args, "tunnel", service=args.service, **more)
    say("closed" if args.off else f"127.0.0.1:{found['port']}")
    return 0


def _shown_tunnels(args: Args, which: str) -> int:
    return _shown(args, found := _asked(args, "tunnels"), tunnels_table(found, which))


def evict(args: Args) -> int:
    """Send a member away."""
    found = _asked(args, "evict", peer=args.peer)
    say(f"{found['peer']} is no member any more")
    return 0


def withdraw(args: Args) -> int:
    """Leave out of a run what a member added to it."""
    found = _asked(args, "withdraw", run=args.run, peer=args.peer)
    say(f"what {found['peer']} added to {args.run} counts no more")
    return 0


def revoke(args: Args) -> int:
    """Make an invite worthless."""
    more = {
        "invite": args.invite,
        "members_too": args.members_too,
        "but": args.but,
    }
    found = _asked(args, "revoke", **more)
    say(f"invite {found['invite'][:16]} is worth nothing from now on")
    return 0


def verify(args: Args) -> int:
    """Check all signatures and content again; 1 if something is wrong."""
    found = _asked(args, "verify")
    _shown(args, found, "\n".join(found["lines"]))
    return 0 if found["good"] else 1


def leave(args: Args) -> int:
    """Leave the network for good, and tell it."""
    if not args.yes and sys.stdin.isatty():
        agreed("This peer will leave its network for good; its key is deleted.")
    found = _asked(args, "leave", sure=args.yes)
    who = f"{found['told']} others were told" if found["told"] else "nobody was told"
    say(
        f"left {found['network']}; {who}, and the node has stopped. "
        "`fedcore peer forget` deletes what it kept"
    )
    return 0


def agreed(text: str) -> None:
    """Return if the user agrees to what cannot be undone.

    Raises:
        ConfigError: the user does not.
    """
    sys.stderr.write(f"{text} Type yes: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != "yes":
        raise ConfigError("nothing was changed")
