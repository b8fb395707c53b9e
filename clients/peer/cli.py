"""``fedcore peer``: a node of a mesh. This file only says how it is called.

What the commands do is in ``starting`` (which make or run a node) and ``asking``
(which speak with the running one); each is imported when it is needed.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from fedcore.subcommands import Part, Subcommands, json_flag, no_words, set_flag


def _home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="the peer's folder (~/.fedcore/peer)"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    json_flag(parser, "one object, for programs")


def _settings(parser: argparse.ArgumentParser) -> None:
    set_flag(parser, "change a setting of peer.toml, such as limit.up_mbit=20")


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NAME", help="what to call the network")
    _settings(parser)


def _join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "invite",
        metavar="INVITE",
        help="the line that begins with fed1: ; - reads it from standard input",
    )
    _settings(parser)


def _up(parser: argparse.ArgumentParser) -> None:
    _settings(parser)
    parser.add_argument("--watch", action="store_true", help="a live view of the node")


def _invite(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--role", default="peer", help="admin, peer, observer or relay (peer)")
    add("--days", type=float, default=7.0, help="how long it may be used (7)")
    add("--qr", action="store_true", help="also as a QR code, on the terminal")
    add("--svg", type=Path, metavar="FILE", help="also as a QR code, in a file")
    _json(parser)


def _ping(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("peer", metavar="PEER", help="its name, its id, or the id's last letters")
    add("--count", type=int, default=5, help="how often (5)")
    _json(parser)


def _put(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, help="what to share")
    add("--name", help="what to call it (the file's name)")
    _json(parser)


def _get(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("content", metavar="CID", help="the content's id, or the name it was given")
    add("--out", type=Path, metavar="FILE", help="where to write it (only keep it)")
    _json(parser)


def _train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="the run's name")
    add("--found", action="store_true", help="begin the run (admins)")
    set_flag(parser, "with --found: task.name, trainer.lr, strategy.steps, seed, ...")
    add("--share", default="1/1", metavar="I/N", help="our part of the task's rows")
    add("--task", metavar="NAME", help="our own examples: a task, or a file of ours")
    add("--by", choices=("gradients", "probes"), help="how to learn (as the run says)")
    add("--out", type=Path, metavar="FILE", help="then write the weights, safetensors")
    add("--turns", type=int, default=100, help="how often to add something (100)")
    add("--every", type=int, default=10, help="turns between two lines (10)")


def _withdraw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's name")
    _one_peer(parser)


def _one_peer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("peer", metavar="PEER", help="its name or id")


def _revoke(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("invite", help="the invite, or its id")
    add("--members-too", action="store_true", help="send away who came with it, too")
    but = "send away who came with it, all but these; may be repeated"
    add("--but", action="append", default=[], metavar="PEER", help=but)


def _sure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _relay(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--listen", action="append", default=[], metavar="ADDRESS", help="default: all")
    add("--port", type=int, default=4001, help="of libp2p (4001)")
    add("--data-port", type=int, default=4002, help="of the blind relay (4002)")
    add("--address", default="", help="its public IP address, if a cloud hides it")
    add("--circuits", type=int, default=64, help="most pairs at once (64)")
    add("--circuit-gb", type=float, default=10.0, help="most for one pair (10)")


def _rehearse(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--nodes", type=int, default=3, help="how many processes, 2 to 8 (3)")
    add("--mb", type=float, default=100.0, help="size of the shared file (100)")
    add("--keep", type=Path, metavar="DIR", help="keep the nodes' folders here")


def _expose(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    name = "what others call it, such as superlink; without it: list what is exposed"
    add("service", metavar="NAME", nargs="?", help=name)
    at = "where it listens, such as 127.0.0.1:9092"
    add("at", metavar="HOST:PORT", nargs="?", help=at)
    add("--off", action="store_true", help="expose it no more")
    _json(parser)


def _tunnel(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "peer",
        metavar="PEER",
        nargs="?",
        help="who exposes it; without: list the ports",
    )
    add("service", metavar="NAME", nargs="?", help="what it is called there")
    add("--port", type=int, default=0, help="on 127.0.0.1 here; 0: any free one (0)")
    add("--off", action="store_true", help="close the port again")
    _json(parser)


PARTS: Mapping[str, Part] = {
    "init": ("starting:init", "found a network, with this peer as its first", _init),
    "join": ("starting:join_network", "join a network with an invite", _join),
    "up": ("starting:up", "run the node, until it is stopped", _up),
    "unit": ("starting:unit", "print a systemd unit that keeps the node up", no_words),
    "invite": ("asking:invite", "make an invite, for as many as shall come", _invite),
    "status": ("asking:status", "what the node is doing, and why", _json),
    "peers": ("asking:peers", "who is there, and how they are reached", _json),
    "log": ("asking:log", "what happened lately", _json),
    "ping": ("asking:ping", "how long a peer takes to answer", _ping),
    "netcheck": ("asking:netcheck", "what kind of router we are behind", _json),
    "put": ("asking:put", "share a file, such as a checkpoint", _put),
    "get": ("asking:get", "fetch what others share", _get),
    "ls": ("asking:listing", "what the network shares, and what is here", _json),
    "train": ("training:train", "train a model that all members hold", _train),
    "expose": ("asking:expose", "let members reach a TCP service of ours", _expose),
    "tunnel": ("asking:tunnel", "reach a TCP service that a member exposes", _tunnel),
    "withdraw": (
        "asking:withdraw",
        "leave out of a run all that a member added (admins)",
        _withdraw,
    ),
    "evict": ("asking:evict", "send a member away (admins)", _one_peer),
    "revoke": ("asking:revoke", "make an invite worthless (admins)", _revoke),
    "verify": ("asking:verify", "check all signatures and content again", _json),
    "doctor": ("checking:doctor", "is this peer healthy? What to do if not", _json),
    "leave": ("asking:leave", "leave the network for good, and tell it", _sure),
    "forget": ("starting:forget_all", "delete this peer and all it keeps", _sure),
    "rehearse": ("rehearsal:rehearse", "play a whole mesh on this machine", _rehearse),
    "relay": ("starting:relay", "help peers of any network to connect", _relay),
}

COMMAND = Subcommands(
    "peer",
    "join a mesh of peers that train without a server, and look at it",
    PARTS,
    "clients.peer",
    _home,
)
