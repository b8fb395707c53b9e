"""An engine's process, seen from the bench."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

from fedcore.errors import FedError
from sims.bench.case import Case

ROOT = Path(__file__).parents[2]


class MissingError(FedError):
    """An engine cannot take part; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One engine that can take part.

    Attributes:
        name: for the rows.
        module: what to run, ``python -m module args``.
        needs: modules that must be importable.
        note: what to know when comparing with it.
        inside: put before the command that starts it, to run it elsewhere.
    """

    name: str
    module: str
    args: Sequence[str] = ()
    needs: Sequence[str] = ()
    note: str = ""
    inside: Sequence[str] = ()


class Process:
    """A running engine: commands go in, answers come out, one at a time."""

    def __init__(self, peer: Peer, pythons: Mapping[str, str], folder: str) -> None:
        """Start it.

        Raises:
            MissingError: something it needs is not installed.
        """
        python = pythons.get(peer.name.partition(",")[0])
        absent = [n for n in peer.needs if find_spec(n) is None]
        if absent and python is None:
            raise MissingError(
                f"no module {absent[0]!r} here (or give --peer-python {peer.name}=PATH)"
            )
        self.peer, self.began = peer, time.perf_counter()
        self.versions: Mapping[str, str] = {}
        self._log = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by close
        self._buffer = b""
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [
                    *peer.inside,
                    python or sys.executable,
                    *("-m", peer.module),
                    *peer.args,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=folder,
                env=_environment(folder, python),
                start_new_session=True,
            )
        except OSError as error:
            raise MissingError(f"cannot start {python}: {error}") from error
        self._inward = cast(IO[bytes], self._process.stdin)
        self._outward = cast(IO[bytes], self._process.stdout)

    def tell(self, **command: Any) -> None:
        """Send a command."""
        try:
            self._inward.write(json.dumps(command).encode() + b"\n")
            self._inward.flush()
        except BrokenPipeError as error:
            raise MissingError(self._last_words()) from error

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Return the answer to the last command.

        Raises:
            MissingError: the engine failed, or did not answer in time.
        """
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left_s = max(until_s - time.monotonic(), 0.0)
            if not select.select([self._outward], [], [], left_s)[0]:
                raise MissingError(f"no answer within {timeout_s:.0f} s")
            part = os.read(self._outward.fileno(), 1 << 16)
            if not part:
                raise MissingError(self._last_words())
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def said(self, do: str, words: Mapping[str, Any], timeout_s: float) -> Any:
        """Return what a program of ``sims.bench.peers.answers`` says.

        Raises:
            MissingError: it failed, or did not answer in time.
        """
        self.tell(do=do, **words)
        return self.hear(timeout_s)["said"]

    def ask_open(self, case: Case) -> None:
        """Ask for ``case`` to be set up; ``opened`` waits for it."""
        self.tell(do="open", case=asdict(case))

    def opened(self, timeout_s: float) -> None:
        """Wait until the case asked for is set up."""
        self.versions = self.hear(timeout_s)["versions"]

    def rounds(self, case: Case, count: int, timeout_s: float) -> list[float]:
        """Train ``count`` rounds and return the seconds of each."""
        self.tell(do="rounds", case=case.name, count=count)
        return [float(s) for s in self.hear(timeout_s)["seconds"]]

    def weights(self, case: Case, path: Path, timeout_s: float) -> Path:
        """Have the model written to ``path`` as an npz file."""
        self.tell(do="weights", case=case.name, path=str(path))
        return Path(str(self.hear(timeout_s)["path"]))

    def memory_bytes(self) -> int:
        """Return the memory of the whole process tree; shared pages count once."""
        import psutil

        total = 0
        root = psutil.Process(self._process.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                full = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            total += getattr(full, "pss", full.rss)
        return total

    def cpu_s(self) -> float:
        """Return the CPU time, in seconds, that the process tree has used."""
        import psutil

        root = psutil.Process(self._process.pid)
        tree = [root, *root.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in tree)

    def dismiss(self) -> None:
        """Ask the engine to end; ``close`` waits for it."""
        with suppress(MissingError):
            self.tell(do="close")

    def close(self) -> None:
        """End the process and what it started; it has ten seconds to do so itself."""
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10.0)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._inward, self._outward, self._log):
            with suppress(BrokenPipeError):
                stream.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        return f"it failed: {text.splitlines()[-1][:200] if text else 'no message'}"


def _environment(folder: str, python: str | None) -> dict[str, str]:
    """Return the variables for the engine: one thread each, quiet, ours on its path.

    Another environment sees only this package of ours, through a link, so that
    none of our libraries hides its own.
    """
    path = ROOT
    if python is not None:
        path = Path(folder) / "path"
        path.mkdir(exist_ok=True)
        link = path / "sims"
        if not link.exists():
            link.symlink_to(ROOT / "sims")
    quiet = {
        "PYTHONPATH": str(path),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(Path(folder) / "flwr"),
    }
    return {**os.environ, **quiet}
