"""Real nodes: processes of ``fedcore peer``, and what their commands say."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FEDCORE = [sys.executable, "-m", "fedcore"]
HERE = ["--set", "listen.addresses=127.0.0.1"]
QUIET = ["--set", "find.nearby=false", "--set", "find.map_ports=false"]


@dataclass
class Node:
    """A peer's folder, and its process while one runs.

    Attributes:
        home: the folder.
        inside: put before each command that shall run elsewhere, such as ``nsenter``.
    """

    home: Path
    inside: Sequence[str] = ()
    process: subprocess.Popen | None = None
    starts: int = field(default=0)

    def run(self, action: str, *words: str, timeout_s: float = 60) -> str:
        """Return what a command says; fail with its words if it fails."""
        done = subprocess.run(
            [*self.inside, *FEDCORE, "peer", action, *words, "--home", str(self.home)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{action}: {done.stderr}\n{self.log()}"
        return done.stdout.strip()

    def ask(self, action: str, *words: str, timeout_s: float = 60) -> dict:
        """Return what a command says with --json."""
        return json.loads(self.run(action, *words, "--json", timeout_s=timeout_s))

    def up(self) -> "Node":
        """Start the node, and return when it can be asked."""
        self.begin("up", "-v")
        self.until(
            lambda: self.ended or (self.home / "control.sock").exists(), "it listens"
        )
        assert not self.ended, self.log()
        return self

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.process is None or self.process.poll() is not None

    def begin(self, action: str, *words: str) -> None:
        """Start a command that goes on, and return at once."""
        self.starts += 1
        command = [*FEDCORE, "peer", action, *words, "--home", str(self.home)]
        with self.log_file().open("ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        (self.home / "control.sock").unlink(missing_ok=True)

    def stop(self) -> int:
        """End it as the system would, and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def log_file(self) -> Path:
        return self.home.with_name(self.home.name + ".log")

    def log(self) -> str:
        """Return the last of what it said."""
        path = self.log_file()
        return path.read_text("utf-8")[-6000:] if path.exists() else ""

    def status(self) -> dict:
        """Return the node's own report, asked without starting a program."""
        from clients.peer.control import ask

        return dict(ask(self.home, {"do": "status"}))

    def notes(self) -> str:
        """Return what happened to it, as one text."""
        from clients.peer.control import ask

        return str(ask(self.home, {"do": "notes"}))

    def paths(self) -> dict:
        """Return the way to each member that is here, by name."""
        return {p["name"]: p["path"] for p in self.status()["peers"] if p["inside"]}

    def until(self, good: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait until ``good()``, which may fail for a while."""
        from fedcore.errors import FedError

        until_s, why = time.monotonic() + timeout_s, ""
        while time.monotonic() < until_s:
            try:
                if good():
                    return
            except FedError as error:
                why = str(error)
            time.sleep(0.05)
        raise AssertionError(f"not in {timeout_s} s: {what} {why}\n{self.log()}")


def all_level(nodes: Sequence[Node], timeout_s: float = 60) -> str:
    """Wait until all nodes know all others and hold one state; return its hash."""

    def level() -> bool:
        found = [node.status() for node in nodes]
        whole = all(s["alive"] == len(nodes) for s in found)
        joined = all(s["members"] >= len(nodes) for s in found)
        return whole and joined and len({s["root"] for s in found}) == 1

    nodes[0].until(level, "all are level", timeout_s)
    return str(nodes[0].status()["root"])


def stop_all(nodes: Sequence[Node]) -> None:
    """End what still runs."""
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            os.kill(node.process.pid, signal.SIGKILL)
            node.process.wait()
