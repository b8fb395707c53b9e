"""A coordinator's desk as one safetensors file, checked when it is read.

The file holds the desk's tensors; its metadata hold the kind of file, the structure
(``fedcore.tree``) and a digest of both. Any safetensors reader opens it; ours takes
only what is whole and of the right kind.
"""

import hashlib
import json
import logging
import re
from dataclasses import astuple, dataclass
from typing import Any

import safetensors
import safetensors.torch

from fedcore.desk import Desk
from fedcore.disk import TEMPORARY, Disk
from fedcore.errors import ConfigError, StorageError
from fedcore.hints import Hint
from fedcore.params import Params, digest
from fedcore.tree import flatten, restore

FORMAT = 1
KEPT = 2  # if the newest cannot be read, the one before it can
_KEY = "fedcore"
_NAME = re.compile(r"desk-(\d{12})\.safetensors")
_log = logging.getLogger(__name__)


def pack(kind: str, value: object) -> bytes:
    """Return ``value`` as a safetensors file that says it is a ``kind``.

    Equal values give equal bytes.

    Raises:
        ConfigError: something in ``value`` cannot be stored; the message names it.
    """
    structure, tensors = flatten(value)
    text = json.dumps(structure, separators=(",", ":"))
    label = _Label(kind, FORMAT, _digest(kind, text, tensors), text)
    # One key only: safetensors writes several in an order that changes.
    return safetensors.torch.save(tensors, {_KEY: json.dumps(astuple(label))})


def unpack(kind: str, hint: Hint, data: bytes) -> Any:
    """Return the value of type ``hint`` in a file made by ``pack``; undoes it.

    Raises:
        StorageError: the file is torn, changed, of another kind, or not ours.
        ConfigError: a newer Fedcore wrote it.
    """
    label = _label(data)
    if label.kind != kind:
        raise StorageError(f"this is a {label.kind}, not a {kind}")
    if label.format > FORMAT:
        raise ConfigError(
            f"this {kind} has format {label.format} and this Fedcore reads up to "
            f"{FORMAT}: a newer Fedcore wrote it; upgrade"
        )
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"torn or damaged {kind}: {error}") from error
    if label.sha256 != _digest(kind, label.structure, tensors):
        raise StorageError(f"damaged {kind}: its digest does not match")
    return restore(hint, json.loads(label.structure), tensors)


@dataclass(frozen=True, slots=True)
class _Label:
    """What a file says about itself, beside its tensors."""

    kind: str
    format: int
    sha256: str
    structure: str


def _label(data: bytes) -> _Label:
    size = int.from_bytes(data[:8], "little")
    try:
        parts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        return _Label(str(parts[0]), int(parts[1]), *map(str, parts[2:]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise StorageError("torn, damaged or foreign file") from error


def _digest(kind: str, structure: str, tensors: Params) -> str:
    whole = hashlib.sha256(f"{kind}\x1f{structure}\x1e".encode())
    whole.update(digest(tensors).encode())
    return whole.hexdigest()


@dataclass(frozen=True)
class Checkpoints:
    """The last desks of one run, ``desk-<serial>.safetensors``; older ones go."""

    disk: Disk

    def save(self, desk: Desk[Any, Any]) -> int:
        """Store ``desk``; return the serial of the oldest desk that is still kept.

        Raises:
            StorageError: the disk failed; the desks saved before are intact.
            ConfigError: the strategy's state or the pace cannot be stored.
        """
        name = f"desk-{desk.serial:012d}.safetensors"
        self.disk.replace(name, pack("desk", desk))
        serials = self.serials()
        for serial in serials[:-KEPT]:
            self.disk.remove(f"desk-{serial:012d}.safetensors")
        return serials[-KEPT:][0]

    def newest(self, hint: Hint) -> Desk[Any, Any] | None:
        """Return the newest desk that is whole, or None if there is no desk at all.

        Raises:
            StorageError: there are desks, and none of them is whole.
        """
        serials = self.serials()
        for serial in reversed(serials):
            name = f"desk-{serial:012d}.safetensors"
            try:
                desk: Desk[Any, Any] = unpack("desk", hint, self.disk.read(name))
            except StorageError as error:
                _log.warning("checkpoint %s is left out: %s", name, error)
            else:
                return desk
        if serials:
            raise StorageError(
                "none of the checkpoints can be read; restore the folder from a "
                "backup, or start a new run in another folder"
            )
        return None

    def serials(self) -> list[int]:
        """Return the serials of the stored desks, ascending."""
        found = (_NAME.fullmatch(name) for name in self.disk.names())
        return sorted(int(match[1]) for match in found if match)

    def sweep(self) -> None:
        """Remove drafts that a crash left behind."""
        for name in self.disk.names():
            if name.endswith(TEMPORARY) and _NAME.fullmatch(name[: -len(TEMPORARY)]):
                self.disk.remove(name)
