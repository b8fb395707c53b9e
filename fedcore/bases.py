"""Models that everybody starts from: sent once, and named by their digest from then on.

A strategy whose peers always begin at one fixed model says so with the hint ``base``:
the digest (``fedcore.params.digest``) of ``Work.params``. A link may then leave the
model out for peers that have it. A digest is a promise that can be checked, so what
comes or lies on a disk under a name is compared with that name before it is used.
"""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from fedcore.errors import ProtocolError
from fedcore.names import shown
from fedcore.params import Params, digest, size_bytes
from fedcore.strategy import Work
from fedcore.task import Task, params_of

SMALL_BYTES = 1 << 16  # a smaller model is sent whole: asking for it costs as much
HELD = 2  # models a process keeps in memory
NAME = re.compile(r"[0-9a-f]{64}")
SUFFIX = ".safetensors"
DRAFT = ".draft-"
STALE_S = 86_400.0  # a draft as old as this belongs to a program that died

_log = logging.getLogger(__name__)


def name_of(work: Work) -> str | None:
    """Return the name by which ``work.params`` may go; None if they go whole.

    Raises:
        ProtocolError: the hint ``base`` is no digest.
    """
    name = work.hints.get("base")
    return None if name is None or is_small(work.params) else checked_name(name)


def is_small(params: Params) -> bool:
    """Return whether naming ``params`` saves nothing."""
    return size_bytes(params) < SMALL_BYTES


def checked_name(name: object) -> str:
    """Return ``name`` if it is a digest; it becomes a file name.

    Raises:
        ProtocolError: it is not.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ProtocolError(f"a base model is named by its SHA-256, not {shown(name)}")
    return name


def check_digest(name: str, params: Params) -> None:
    """Raise ProtocolError unless ``params`` are what ``name`` says."""
    found = digest(params)
    if found != name:
        raise ProtocolError(
            f"the model that came as base {name[:16]} is {found[:16]} (SHA-256)"
        )


def down_bytes(work: Work) -> int:
    """Return the bytes of tensors that go to a peer that has the base model."""
    model = 0 if name_of(work) else size_bytes(work.params)
    return model + size_bytes(work.aux)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of base models that several programs may share; the oldest go.

    It only saves bytes: where it cannot be read or written, models are sent again.

    Attributes:
        folder: where the files are; made, private to its owner, at the first write.
        max_bytes: most that the files may take together, >= 0; 0 keeps nothing.
    """

    folder: Path
    max_bytes: int = 8 << 30

    def get(self, name: str) -> Params | None:
        """Return base ``name``, checked, or None; a damaged file is removed."""
        path = self.folder / f"{checked_name(name)}{SUFFIX}"
        try:
            params = safetensors.torch.load_file(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            _leave_out(path, str(error))
            return None
        if digest(params) != name:
            _leave_out(path, "its digest is another")
            return None
        with suppress(OSError):
            os.utime(path)  # in use: it is not the oldest any more
        return params

    def put(self, name: str, params: Params) -> None:
        """Keep ``params``, which are base ``name``; whole on the disk or not at all."""
        path = self.folder / f"{checked_name(name)}{SUFFIX}"
        if size_bytes(params) > self.max_bytes:
            return
        try:
            if path.exists():
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            self._make_room(size_bytes(params))
            self._write(path, params)
        except OSError as error:
            _log.warning("cannot keep base model %s: %s", path, error)

    def _write(self, path: Path, params: Params) -> None:
        plain = torch.contiguous_format  # and no two in one memory: the file wants both
        own = {
            name: t.detach().cpu().clone(memory_format=plain)
            for name, t in params.items()
        }
        handle, draft = tempfile.mkstemp(dir=self.folder, prefix=DRAFT)
        os.close(handle)
        try:
            safetensors.torch.save_file(own, draft)
            _flush(draft)
            Path(draft).replace(path)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        finally:
            Path(draft).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what programs that were killed have left half written."""
        for path in self.folder.glob(f"{DRAFT}*"):
            with suppress(FileNotFoundError):  # another program was quicker
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def _make_room(self, size: int) -> None:
        """Remove the files used longest ago until ``size`` bytes more fit."""
        files = sorted(self._files(), key=lambda f: (f[1].st_mtime, f[0].name))
        total = sum(stat.st_size for _, stat in files)
        for path, stat in files:
            if total + size <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # another program was quicker
                yield path, path.stat()


def _leave_out(path: Path, cause: str) -> None:
    _log.warning("base model %s is left out: %s", path, cause)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def default_folder() -> Path:
    """Return the folder of base models of this user."""
    return Path.home() / ".cache" / "fedcore" / "bases"


@dataclass
class Bases:
    """The base models at hand in one process; trainers must not write into them.

    Attributes:
        held: the ones used last, by name.
        strange: names of which a task here has shown that it does not bring them.
    """

    held: dict[str, Params] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)

    def find(self, name: str, task: Task, shelf: Shelf | None) -> Params | None:
        """Return base ``name`` from memory, ``shelf`` or the task's own weights."""
        params = self.held.pop(name, None)
        if params is None and shelf is not None:
            params = shelf.get(name)
        if params is None:
            params = self._own(name, task)
        return None if params is None else self._hold(name, params)

    def take(self, name: str, params: Params, shelf: Shelf | None) -> Params:
        """Return base ``name``: ``params``, which came as it and are kept from now on.

        Of several copies that come to one process only the first is looked at.

        Raises:
            ProtocolError: they are another model.
        """
        if name not in self.held:
            check_digest(name, params)
            self._hold(name, params)
            if shelf is not None:
                shelf.put(name, params)
        return self._hold(name, self.held[name])

    def _own(self, name: str, task: Task) -> Params | None:
        """Return the weights of a new model of ``task`` if they are base ``name``."""
        if name in self.strange:
            return None
        params = params_of(task.model())
        if digest(params) == name:
            return params
        self.strange.add(name)
        return None

    def _hold(self, name: str, params: Params) -> Params:
        self.held.pop(name, None)
        self.held[name] = params
        while len(self.held) > HELD:
            del self.held[next(iter(self.held))]
        return params
