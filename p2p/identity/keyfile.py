"""A peer's key on disk: PKCS #8 in PEM, as OpenSSL writes it, for its owner only."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedcore.errors import ConfigError, StorageError
from p2p.identity.keys import Key

MAX_BYTES = 4096
_POSIX = os.name == "posix"


def save_key(path: Path, key: Key) -> None:
    """Write ``key`` to the new file ``path``, whole and durable or not at all.

    Raises:
        ConfigError: there is a file already; a key is never written over.
        StorageError: the disk failed, or the folder cannot be written to.
    """
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _told(f"write key {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(draft, pem)
            os.link(draft, path)  # unlike a rename, it fails if there is a file
        except FileExistsError as error:
            raise ConfigError(
                f"{path} exists, and a key is never overwritten: move it away first"
            ) from error
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)


def load_key(path: Path) -> Key:
    """Return the key in ``path``.

    Raises:
        ConfigError: there is none, others may read it, or it holds something else.
        StorageError: the disk failed.
    """
    with _told(f"read key {path}"):
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError as error:
            raise ConfigError(
                f"there is no key in {path}; make or join a network"
            ) from (error)
        try:
            _check_private(path, os.fstat(handle))
            pem = os.read(handle, MAX_BYTES)
        finally:
            os.close(handle)
    return _parsed(path, pem)


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if not _POSIX:
        return  # elsewhere folders cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_private(path: Path, found: os.stat_result) -> None:
    """Raise ConfigError unless the file is its owner's alone, and we are the owner."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is not a file; name the file of your key")
    if not _POSIX:
        return  # there permissions are not in the mode
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"key {path} belongs to another user; make your own, or: chown $USER {path}"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"others may read or write key {path} (mode {mode:04o}): chmod 600 {path}, "
            "and make a new key if anybody may have copied this one"
        )


def _parsed(path: Path, pem: bytes) -> Key:
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} holds no key that can be read: restore it from a backup, or make "
            "a new one"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} holds a key of another kind; an Ed25519 key is needed"
        )
    return Key(private.private_bytes_raw())


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn what the system says into our errors."""
    try:
        yield
    except (ConfigError, StorageError):
        raise
    except OSError as error:
        said = error.strerror or error
        raise StorageError(f"{doing}: {said}; check the disk and the path") from error
