"""``fedcore split``: where to cut a model, and training it in two places."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.subcommands import Part, Subcommands, say, set_flag

if TYPE_CHECKING:
    from fedcore.params import Params

HEAD = "   at  last block  up kB  latency ms  batches/s  training step ms"
MEASURED = "  measured latency ms  batches/s"


def _flags(parser: argparse.ArgumentParser) -> None:
    set_flag(parser, "task.name, the task's settings, trainer.name, trainer.lr, ...")
    parser.add_argument("--seed", type=int, default=0, help="of the first model")


def _link_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--delay-ms", type=float, default=0.0, help="of the link, each way (0)")
    add("--mbit", type=float, default=float("inf"), help="per second, each way (inf)")


def _where_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--client", type=float, default=1.0, help="times slower than this machine (1)")
    add("--server", type=float, default=1.0, help="times slower than this machine (1)")
    _link_flags(parser)
    add("--measure", action="store_true", help="also run every cut, in two processes")


def _cut_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--at", type=int, default=1, help="first blocks that stay with the client (1)")
    add(
        "--head", type=int, default=0, help="last blocks that do so, and the labels (0)"
    )


def _serve_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _cut_flags(parser)
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    add("--port", type=int, default=7070, help="0 for any free one (7070)")
    add("--apart", action="store_true", help="a back of its own for each client")
    add("--folder", type=Path, help="keep every step here, to go on after a crash")
    add("--cert", type=Path, help="TLS certificate, PEM")
    add("--key", type=Path, help="its key, PEM")
    _link_flags(parser)
    add("--slowdown", type=float, default=1.0, help="play a slower device (1)")
    add("--until-eof", action="store_true", help="end when standard input ends")


def _train_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _cut_flags(parser)
    add("--host", default="127.0.0.1", help="of the server (127.0.0.1)")
    add("--port", type=int, default=7070, help="of the server (7070)")
    add("--steps", type=int, default=100, help="batches to train on (100)")
    add("--peer", default="client", help="our name (client)")
    add("--session", type=int, default=0, help="another number begins anew (0)")
    add(
        "--share", default="1/1", metavar="I/N", help="the I-th of N shares of the rows"
    )
    add("--folder", type=Path, help="keep every step here, to go on after a crash")
    add("--ca", type=Path, help="speak TLS; certificates to trust, PEM")
    add("--out", type=Path, help="write the trained front here, safetensors")


def _where(args: argparse.Namespace) -> None:
    """Print what every cut takes; a star marks those that no other beats."""
    from clients.split.asked import chosen, place
    from clients.split.pareto import front_of, predicted, step_s
    from clients.split.profile import profiled

    dataset, _ = chosen(args)
    x, _ = next(dataset.whole().batches(0))
    where = place(args)
    profile = profiled(dataset.new_model(), x)
    points = predicted(profile, where)
    best = {p.at for p in front_of(points)}
    speeds = _speeds(args) if args.measure else {}
    names = ["-", *(block.name for block in profile.blocks)]
    say(HEAD + (MEASURED if args.measure else ""))
    for p in points:
        size_kb = profile.crossings[p.at].size_bytes / 1e3
        step_ms = 1e3 * step_s(profile, where, p.at)
        say(
            f"{'*' if p.at in best else ' '} {p.at:>3}  {names[p.at]:<10} "
            f"{size_kb:>6.1f} {1e3 * p.latency_s:>11.2f} {p.per_s:>10.1f} "
            f"{step_ms:>17.2f}{speeds.get(p.at, '')}"
        )


def _speeds(args: argparse.Namespace) -> Mapping[int, str]:
    """Return what every cut took, in words, measured with a second process."""
    from clients.split.asked import chosen, net
    from clients.split.far import Far
    from clients.split.stage import measured

    dataset, _ = chosen(args)
    x, _ = next(dataset.whole().batches(0))
    words = [f"--set={word}" for word in args.set] + [f"--slowdown={args.server}"]
    with Far(words, net(args)) as far:
        model = dataset.new_model()
        found = measured(model, far.dial, x, slowdown=args.client, repeats=20)
    return {
        at: f"{1e3 * s.latency_s:>23.2f} {s.per_s:>10.1f}" for at, s in enumerate(found)
    }


def _serve(args: argparse.Namespace) -> None:
    """Serve until somebody stops it."""
    from clients.split.asked import listening
    from clients.split.far import LISTENING

    with listening(args) as server:
        say(f"{LISTENING}{server.host}:{server.port}")
        if args.until_eof:
            sys.stdin.buffer.read()
        else:
            server.wait()


def _train(args: argparse.Namespace) -> None:
    """Train, and say what came of it."""
    from clients.split.asked import chosen, client_tls, share
    from clients.split.client import SplitClient
    from clients.split.cut import Cut
    from clients.split.sockets import tcp

    dataset, trainer = chosen(args)
    task, cut = share(args.share, dataset), Cut(args.at, args.head)
    client = SplitClient(task, cut, trainer, args.peer, args.folder)
    dial = tcp(args.host, args.port, client_tls(args.ca))
    done = client.train(dial, args.steps, dataset.start(args.seed), args.session)
    say(f"{done.steps} steps, mean loss {done.loss:.4f}")
    if args.out:
        _write(args.out, done.params)


def _write(path: Path, params: "Params") -> None:
    import safetensors.torch

    from fedcore.disk import RealDisk

    RealDisk(path.parent).replace(path.name, safetensors.torch.save(dict(params)))
    say(f"written: {path}")


PARTS: Mapping[str, Part] = {
    "where": (_where, "what every cut of a model would take", _where_flags),
    "serve": (_serve, "train the back, or run it, for others", _serve_flags),
    "train": (_train, "train the front on this machine's data", _train_flags),
}

COMMAND = Subcommands(
    "split",
    "train a model in two places, and find where to cut it",
    PARTS,
    describe=_flags,
)
