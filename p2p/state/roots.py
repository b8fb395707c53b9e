"""A hash of all logs that is kept up to date: a change costs one pass over the rows.

root = H(network | row | row | ...)       rows in the order of their writers' keys
row  = key (32) | length (8) | fork (8) | link (32)
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import sha256

_ROW_BYTES = 80


@dataclass
class Roots:
    """The rows of one network, sorted."""

    network: str
    _keys: list[bytes] = field(default_factory=list)
    _rows: bytearray = field(default_factory=bytearray)
    _root: bytes | None = None

    def put(self, key: bytes, length: int, fork: int, link: bytes) -> None:
        """Add or change the row of the writer with this public key."""
        at = bisect_left(self._keys, key)
        old = at < len(self._keys) and self._keys[at] == key
        if not old:
            self._keys.insert(at, key)
        numbers = length.to_bytes(8, "little") + fork.to_bytes(8, "little")
        start = at * _ROW_BYTES
        self._rows[start : start + _ROW_BYTES * old] = key + numbers + link
        self._root = None

    def drop(self, key: bytes) -> None:
        """Take the row of a writer out, if there is one."""
        at = bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            del self._keys[at]
            del self._rows[at * _ROW_BYTES : (at + 1) * _ROW_BYTES]
            self._root = None

    def root(self) -> bytes:
        """Return the hash, 32 bytes."""
        if self._root is None:
            whole = sha256(self.network.encode())
            whole.update(self._rows)
            self._root = whole.digest()
        return self._root
