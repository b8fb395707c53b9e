"""``fedcore peer rehearse``: a whole mesh on this machine, to see it and to trust it.

Real processes on the loopback interface found a network, join it with one invite, share
a file, train a model with no server, lose a node to ``kill -9`` (the founder, too), and
end with one state hash.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from clients.peer.asking import progress
from clients.peer.control import Json, ask
from clients.peer.tables import peers_table, size
from fedcore.errors import ConfigError, FedError, PeerLostError
from fedcore.subcommands import say

NAMES = ("ann", "bob", "cyd", "dot", "eve", "fay", "gus", "hal")
ALONE = (
    *("--set", "listen.addresses=127.0.0.1"),
    *("--set", "find.nearby=false"),
    *("--set", "find.map_ports=false"),
)
RUN, TURNS = "digits", "12"
SETTINGS = (
    *("--set", "task.name=digits"),
    *("--set", "strategy.lr=0.01"),
    *("--set", "strategy.eps=0.01"),
    *("--set", "strategy.steps=60"),
    *("--set", "strategy.directions=4"),
)
MOST_MB = 10_000
WAIT_S = 60.0
LOOK_S = 0.1


@dataclass
class Actor:
    """One node of the rehearsal.

    Attributes:
        name: what it is called.
        home: its folder.
    """

    name: str
    home: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def run(self, action: str, *words: str) -> str:
        """Return what a command of the node says.

        Raises:
            PeerLostError: the command failed.
        """
        command = [sys.executable, "-m", "fedcore", "peer", action, *words]
        done = subprocess.run(  # noqa: S603 - our own program
            [*command, "--home", str(self.home)], capture_output=True, text=True
        )
        if done.returncode:
            raise PeerLostError(f"{self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def up(self) -> None:
        """Start the node's process, and return when it answers."""
        command = [sys.executable, "-m", "fedcore", "peer", "up"]
        with self.home.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--home", str(self.home)], stdout=log, stderr=log
            )
        until(lambda: bool(self.status()), f"{self.name} answers")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def status(self) -> Json:
        """Return what it says of itself."""
        return ask(self.home, {"do": "status"})


def until(good: Callable[[], bool], what: str) -> float:
    """Wait until ``good()``, which may fail for a while; return the seconds it took.

    Raises:
        PeerLostError: it did not come about within a minute.
    """
    began_s, why = time.monotonic(), ""
    while time.monotonic() < began_s + WAIT_S:
        try:
            if good():
                return time.monotonic() - began_s
        except FedError as error:
            why = str(error)
        time.sleep(LOOK_S)
    raise PeerLostError(f"not within {WAIT_S:g} s: {what}. {why}")


def level(actors: Sequence[Actor]) -> bool:
    """Return whether all know all, have one state, and a channel to each other."""
    found = [dict(actor.status()) for actor in actors]
    count = len(actors)
    whole = all(s["alive"] == count == s["members"] for s in found)
    joined = all(p["channel"] for s in found for p in s["peers"])
    return bool(whole and joined and len({s["root"] for s in found}) == 1)


@dataclass
class Rehearsal:
    """The play.

    Attributes:
        folder: where the nodes live.
        count: how many.
        file_mb: megabytes of the file that they share.
        say: prints a line.
        hint: shows what is going on, for a while.
    """

    folder: Path
    count: int
    file_mb: float
    say: Callable[[str], None]
    hint: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        names = NAMES[: self.count]
        self.actors = [Actor(name, self.folder / name) for name in names]

    def play(self) -> None:
        """Play it to the end, whatever it takes to end what was started."""
        with ExitStack() as stack:
            for actor in self.actors:
                stack.callback(actor.kill)
            self.hint(f"{self.count} nodes start, one after the other ...")
            self._gather()
            self.hint(f"a file of {self.file_mb:g} MB goes to everybody ...")
            self._share()
            self.hint("everybody trains one model, on examples of its own ...")
            self._train()
            for actor in (self.actors[0], self.actors[-1]):
                self.hint(f"{actor.name} is killed; the others go on ...")
                self._lose(actor)
            self.hint("all nodes check all that they keep ...")
            self._check()

    def _gather(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        first, *others = self.actors
        first.run("init", "rehearsal", *ALONE, "--set", f"name={first.name}")
        first.up()
        invite = first.run("invite")
        for actor in others:
            actor.run("join", invite, *ALONE, "--set", f"name={actor.name}")
            actor.up()
        took_s = until(lambda: level(self.actors), "all are level")
        self.say(f"{self.count} processes are one mesh, {took_s:.1f} s after the last")
        self.say(peers_table(first.status()["peers"]))
        self.say(f"state hash of all: {first.status()['root'][:16]}")

    def _share(self) -> None:
        path = self.folder / "checkpoint.bin"
        path.write_bytes(os.urandom(int(self.file_mb * 1e6)))
        began_s = time.monotonic()
        cid = self.actors[1].run("put", str(path))
        until(lambda: self._everywhere(cid), "everybody has the file")
        took_s = time.monotonic() - began_s
        self.say(
            f"{size(path.stat().st_size)} are with everybody after {took_s:.1f} s, "
            "every chunk checked against its digest"
        )

    def _train(self) -> None:
        """Train one model from all sides at once; everybody ends with the same bits.

        One of them has no memory for gradients, and probes.
        """
        first = self.actors[0]
        first.run("train", RUN, "--found", "--turns", "0", *SETTINGS)
        until(lambda: all(_knows(a, RUN) for a in self.actors), "all know the run")
        with ThreadPoolExecutor(self.count) as pool:
            list(pool.map(self._part, range(self.count)))
        until(lambda: level(self.actors), "all have heard all additions")
        ends = [actor.run("train", RUN, "--turns", "0") for actor in self.actors]
        if len(set(ends)) != 1:
            raise PeerLostError(f"the peers hold different weights: {ends}")
        self.say(f"trained by all at once, with no server: {ends[0]}")

    def _part(self, number: int) -> None:
        share, by = f"{number + 1}/{self.count}", "gradients" if number else "probes"
        words = ("--share", share, "--by", by, "--turns", TURNS)
        self.actors[number].run("train", RUN, *words)

    def _everywhere(self, cid: str) -> bool:
        contents = [c for a in self.actors for c in a.status()["contents"]]
        here = [c for c in contents if c["cid"] == cid and c["here"]]
        return len(here) == self.count

    def _lose(self, actor: Actor) -> None:
        others = [a for a in self.actors if a is not actor]
        actor.kill()
        until(lambda: all(_alone(a, actor) for a in others), "its loss is noticed")
        path = self.folder / f"while-{actor.name}-was-away"
        path.write_bytes(actor.name.encode())
        others[0].run("put", str(path))
        actor.up()
        took_s = until(lambda: level(self.actors), "it has caught up")
        root = actor.status()["root"][:16]
        self.say(f"kill -9 of {actor.name}; level again in {took_s:.1f} s: {root}")

    def _check(self) -> None:
        for actor in self.actors:
            actor.run("verify")
        self.say("every signature, link and chunk of every node is good")


def _knows(actor: Actor, run: str) -> bool:
    status = actor.status()
    here = [c["here"] for c in status["contents"] if c["name"] == f"{run}-base"]
    return any(r["run"] == run for r in status["runs"]) and here == [True]


def _alone(actor: Actor, gone: Actor) -> bool:
    found = [p for p in actor.status()["peers"] if p["name"] == gone.name]
    return not any(p["inside"] for p in found)


def rehearse(args: argparse.Namespace) -> int:
    """Play it, and say what happens."""
    if not 2 <= args.nodes <= len(NAMES):
        raise ConfigError(f"--nodes must be from 2 to {len(NAMES)}")
    if not 0 <= args.mb <= MOST_MB:
        raise ConfigError(f"--mb must be from 0 to {MOST_MB}")
    if args.keep is not None and args.keep.exists() and any(args.keep.iterdir()):
        raise ConfigError(f"{args.keep} is not empty: choose a new folder for --keep")

    def say_alone(text: str) -> None:
        progress({"words": ""})
        say(text)

    with tempfile.TemporaryDirectory(prefix="fedcore-mesh-") as folder:
        hint = lambda text: progress({"words": text})  # noqa: E731
        place = args.keep or Path(folder)
        Rehearsal(place, args.nodes, args.mb, say_alone, hint).play()
    return 0
