"""``flower-simulation``: run any Flower app directory, at once and repeatably.

Flower had a command of this name until 1.26. This one runs the same apps, unmodified,
without Ray, SuperLink, network or anything left running; or, with ``--backend ray``,
on Flower's own simulation.

Exit codes: 0 done; 1 the app, or more clients than allowed, failed; 2 the command line
was wrong; 130 stopped by Ctrl-C.
"""

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.cli import Parser, guarded
from fedcore.errors import ConfigError

if TYPE_CHECKING:
    from sims.flower.loader import AppFiles
    from sims.flower.tally import Tally

USUAL_NODES = 10


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    own = Parser(
        prog="flower-simulation",
        description="Run a Flower app on virtual nodes, with no Ray and no SuperLink.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("--app", type=Path, default=Path(), metavar="DIR", help="the app (default: .)")
    add("--num-supernodes", type=int, metavar="N", help="virtual nodes (default: 10)")
    add("--backend", choices=("inprocess", "ray"), default="inprocess")
    add(
        "--run-config",
        action="append",
        default=[],
        metavar="'K=V ...'",
        help="change keys of the app's configuration, or read a .toml file",
    )
    add("--seed", type=int, default=0, help="of everything random (not with ray)")
    add(
        "--workers",
        type=int,
        metavar="W",
        help="processes for clients; 0 uses this one; changes no bit "
        "(default: one per core)",
    )
    add(
        "--max-failures",
        type=int,
        default=0,
        metavar="F",
        help="client messages that may fail before the run counts as failed",
    )
    add("--json", action="store_true", help="one JSON object a line on stdout")
    add("--verbose", action="store_true", help="all that Flower logs")
    add("--quiet", action="store_true", help="nothing that Flower logs but warnings")
    add("--debug", action="store_true", help="show the traceback of an error")
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process's); return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    before = set(threading.enumerate())
    code = guarded(lambda: _run(parser().parse_args(words)), debug="--debug" in words)
    _leave(code, before)
    return code


def _run(args: argparse.Namespace) -> int:
    for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(name, "0")  # both are read when Flower is imported
    from sims.flower.loader import read_app
    from sims.flower.tally import Tally

    files = read_app(args.app)
    tally = Tally(sys.stdout, sys.stderr, as_json=args.json)
    begin_s = time.monotonic()
    try:
        _simulate(args, files, tally)
    finally:
        tally.close()
    tally.done(time.monotonic() - begin_s)
    sys.stdout.flush()
    if tally.failed > args.max_failures:
        sys.stderr.write(
            f"flower-simulation: {tally.failed} of {tally.messages} client messages "
            f"failed; {args.max_failures} may (--max-failures)\n"
        )
        return 1
    return 0


def _simulate(args: argparse.Namespace, files: "AppFiles", tally: "Tally") -> None:
    from sims.flower.loader import load_app, overridden

    nodes = args.num_supernodes
    if nodes is None:
        nodes = files.nodes or USUAL_NODES
    if nodes < 1 or (args.workers or 0) < 0 or args.max_failures < 0:
        raise ConfigError(
            "--num-supernodes must be >= 1, --workers and --max-failures >= 0"
        )
    config = overridden(files.config, args.run_config)
    _set_logging(args)
    app = load_app(files)
    if args.backend == "ray":
        from sims.flower.ray import run_on_ray

        run_on_ray(
            app.server,
            app.client,
            nodes,
            run_config=config,
            verbose=args.verbose,
            watch=tally.watch,
        )
        return
    from sims.flower.run import run_in_process

    run_in_process(
        app.server,
        app.client,
        nodes,
        run_config=config,
        seed=args.seed,
        workers=_workers(args.workers, nodes),
        watch=tally.watch,
    )


def _workers(asked: int | None, nodes: int) -> int:
    """Return the processes to fork; a single one would only add its overhead."""
    if asked is not None:
        return min(asked, nodes)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    count = min(usable, nodes)
    return count if count > 1 else 0


def _set_logging(args: argparse.Namespace) -> None:
    quiet = args.quiet or args.json
    level = logging.WARNING if quiet else logging.INFO
    logging.getLogger("flwr").setLevel(logging.DEBUG if args.verbose else level)


def _leave(code: int, before: set[threading.Thread]) -> None:
    """Let no thread that the app forgot keep the process alive."""
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    if left:
        names = ", ".join(thread.name for thread in left)
        sys.stderr.write(f"flower-simulation: the app left threads running: {names}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
