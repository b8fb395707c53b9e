"""One sitting of a run in its folder: from its start, or from where it was stopped.

Ctrl-C ends a run after the round it is in, with a checkpoint; a second one ends it at
once, and so does kill -9: then it goes on from the last checkpoint. Either way the end
is the same, bit for bit.
"""

import hashlib
import logging
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

import safetensors.torch

from fedcore.cli import explained
from fedcore.config import dump, from_toml
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, StorageError
from fedcore.journal import FileJournal
from fedcore.metrics import Row, plain
from sims.cli.doctor import usable_cores
from sims.cli.progress import Progress
from sims.runs.config import RunConfig, configured
from sims.runs.folder import Manifest, RunFolder, as_json
from sims.runs.lock import held
from sims.runs.run import Data, Result, Setup, Watcher, prepare, simulate

GAP_S = 10.0  # between checkpoints, when their number is not set
DECIDES_BITS = (
    *("fedcore", "numpy", "torch", "safetensors"),
    *("transformers", "tokenizers", "peft"),  # of language models only
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a sitting ended, and the manifest that says so."""

    folder: RunFolder
    manifest: Manifest
    result: Result
    data: Data

    @property
    def stopped(self) -> bool:
        """It was stopped on request, and can go on."""
        return self.result.ending == "stopped"


def begin(setup: Setup, folder: RunFolder, progress: Progress) -> Ended:
    """Run ``setup`` in the new ``folder``.

    Raises:
        FedError: the run failed; the folder says so and keeps what there is.
    """
    config = setup.config
    text = dump(config)
    folder.write("config.toml", text)
    folder.write("clients.json", as_json(plain(asdict(setup.clients()))))
    manifest = Manifest(
        name=folder.name,
        status="running",
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        seed=config.run.seed,
        rounds=config.run.rounds,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
        data_sha256=setup.data.sha256,
        engine=config.run.engine,
        workers=config.run.workers,
        versions=versions(),
        machine=machine(),
        git=git_commit(),
    )
    return _sit(setup, folder, folder.note(manifest), progress)


def go_on(folder: RunFolder, progress: Progress, data: Data | None = None) -> Ended:
    """Finish the run in ``folder`` from its last checkpoint.

    Args:
        folder: of the run.
        progress: who watches.
        data: already loaded, if the task is the same.

    Raises:
        ConfigError: it is finished, at work elsewhere, or its files or data changed.
        FedError: the run failed.
    """
    manifest = folder.manifest()
    if manifest.status == "finished":
        raise ConfigError(
            f"{folder.name} is finished: there is nothing to resume; "
            f"`fedcore sim show {folder.name}` shows it"
        )
    setup = prepare(stored_config(folder), data)
    check_same_data(setup, manifest)
    return _sit(setup, folder, manifest, progress)


def stored_config(folder: RunFolder) -> RunConfig:
    """Return the configuration of the run in ``folder``.

    Raises:
        ConfigError: it was changed since the run began, or is wrong.
    """
    text, manifest = folder.read("config.toml"), folder.manifest()
    if hashlib.sha256(text.encode()).hexdigest() != manifest.config_sha256:
        raise ConfigError(
            f"{folder.path}/config.toml was changed since the run began: put it back, "
            "or start a new run with it: `fedcore sim run config.toml`"
        )
    return configured(from_toml(text, "config.toml"))


def check_same_data(setup: Setup, manifest: Manifest) -> None:
    """Refuse data other than those the run began with."""
    if setup.data.sha256 != manifest.data_sha256:
        raise ConfigError(
            f"the data of task {setup.config.task.name!r}, or the frozen weights of "
            "its model, are not those this run began with: restore them, or start a "
            "new run"
        )


def _sit(
    setup: Setup, folder: RunFolder, manifest: Manifest, progress: Progress
) -> Ended:
    began_s = time.monotonic()
    with held(folder.path), _logged(folder), _interruptible(progress) as asked:
        manifest = folder.note(replace(manifest, status="running", error=""))
        _log.info("%s: %s", folder.name, "goes on" if manifest.done else "starts")
        recorder = _Recorder(folder, progress)
        watcher = Watcher(
            recorder.row,
            progress.note,
            lambda: bool(asked),
            begin=lambda done: progress.start(folder.name, done, manifest.rounds),
        )
        try:
            result = simulate(setup, watcher, _journal(setup, folder, manifest))
        except BaseException as error:
            broken = _broken(manifest, error, recorder.done)
            with suppress(StorageError):  # if the disk is full, it stays "running"
                folder.note(replace(broken, wall_s=_spent(manifest, began_s)))
            if broken.status == "stopped":
                progress.note(f"go on with: fedcore sim resume {folder.path}")
            raise
        finally:
            progress.end()
        manifest = replace(manifest, wall_s=_spent(manifest, began_s))
        return Ended(folder, _close(folder, manifest, result), result, setup.data)


def _close(folder: RunFolder, manifest: Manifest, result: Result) -> Manifest:
    """Write what is left of a run that ended well, and return its manifest."""
    folder.write_csv()
    if result.personal:
        folder.write("personal.json", as_json(plain(result.personal)))
    folder.write("model.safetensors", safetensors.torch.save(dict(result.params)))
    stopped = result.ending == "stopped"
    manifest = replace(
        manifest,
        status="stopped" if stopped else "finished",
        done=result.rounds,
        sha256="" if stopped else result.sha256,
    )
    _log.info("%s after round %d, %s", manifest.status, manifest.done, result.sha256)
    return folder.note(manifest)


def _spent(manifest: Manifest, began_s: float) -> float:
    return round(manifest.wall_s + time.monotonic() - began_s, 3)


def _broken(manifest: Manifest, error: BaseException, done: int) -> Manifest:
    done = max(done, manifest.done)
    if isinstance(error, Exception):
        _log.error("failed", exc_info=error)
        return replace(manifest, status="failed", error=explained(error), done=done)
    return replace(manifest, status="stopped", done=done)


def _journal(setup: Setup, folder: RunFolder, manifest: Manifest) -> FileJournal:
    every = setup.config.run.checkpoint_every
    return FileJournal(
        RealDisk(folder.path / "journal"),
        manifest.config_sha256,
        payloads=False,
        every_folds=max(every, 1),
        gap_s=0.0 if every else GAP_S,
    )


@dataclass
class _Recorder:
    """Writes rows as they come; the first of a sitting replaces what came after it."""

    folder: RunFolder
    progress: Progress
    done: int = 0

    def row(self, row: Row) -> None:
        if not self.done:
            self.folder.keep_rows(row.round - 1)
        self.folder.add(row)
        self.done = row.round
        self.progress.row(row)


@contextmanager
def _interruptible(progress: Progress) -> Iterator[list[int]]:
    """Let the first Ctrl-C ask for an end, and the second one force it.

    Yields:
        The signals so far: not empty once an end is asked for.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        progress.note("stopping after this round; Ctrl-C again stops at once")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: whoever is there handles Ctrl-C
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _logged(folder: RunFolder) -> Iterator[None]:
    """Write log records of our packages to ``run.log`` as well."""
    handler = logging.FileHandler(folder.path / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = [logging.getLogger(n) for n in ("fedcore", "sims", "clients", "strategies")]
    before = [logger.level for logger in ours]
    for logger in ours:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(ours, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        with suppress(OSError):
            handler.close()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the bits."""
    found = {"python": platform.python_version()}
    for name in DECIDES_BITS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> dict[str, str | int]:
    """Return what the manifest says of this machine."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cores": usable_cores(),
    }


def git_commit() -> str:
    """Return the commit of the tree we are in, ``-dirty`` if changed; or nothing."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
