"""A disk that writes down every call, and what a crash between two of them leaves.

Model: bytes written to a file are certain after that file was flushed, and names
(made, changed, removed) are certain after the folder was flushed. Until then a crash
may keep all, nothing, or any part of them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from fedcore.disk import Connection, Database, RealDisk

Image = dict[str, bytes]  # files by name, as found after the crash


@dataclass(frozen=True)
class Create:
    name: str


@dataclass(frozen=True)
class Write:
    name: str
    offset: int
    data: bytes

    def on(self, old: bytes) -> bytes:
        gap = b"\0" * (self.offset - len(old))
        return (
            old[: self.offset] + gap + self.data + old[self.offset + len(self.data) :]
        )


@dataclass(frozen=True)
class Truncate:
    name: str
    size: int

    def on(self, old: bytes) -> bytes:
        return old[: self.size] + b"\0" * (self.size - len(old))


@dataclass(frozen=True)
class Flush:
    name: str


@dataclass(frozen=True)
class Rename:
    old: str
    new: str


@dataclass(frozen=True)
class Remove:
    name: str


@dataclass(frozen=True)
class FlushNames:
    pass


@dataclass(frozen=True)
class Promise:
    """Not a call: the journal said that all before ``serial`` is safe."""

    serial: int


Call = Create | Write | Truncate | Flush | Rename | Remove | FlushNames | Promise


@dataclass
class File:
    """One file's bytes: certain ones, and what was done to them since."""

    certain: bytes = b""
    since: list[Write | Truncate] = field(default_factory=list)

    def content(self, draw: random.Random | None = None, share: float = 1.0) -> bytes:
        """Return the certain bytes with each later change, or ``share`` of them."""
        data = self.certain
        for change in self.since:
            if draw is None or draw.random() < share:
                data = change.on(data)
        return data


@dataclass
class Memory:
    """What the calls so far have done."""

    names: dict[str, File] = field(default_factory=dict)
    certain_names: dict[str, File] = field(default_factory=dict)
    promised: int = 0

    @classmethod
    def of(cls, image: Image) -> "Memory":
        files = {name: File(data) for name, data in image.items()}
        return cls(dict(files), dict(files))

    def do(self, call: Call) -> None:
        match call:
            case Create(name):
                self.names[name] = File()
            case Write(name) | Truncate(name):
                self.names[name].since.append(call)
            case Flush(name):
                self.names[name] = self._flushed(name)
            case Rename(old, new):
                self.names[new] = self.names.pop(old)
            case Remove(name):
                del self.names[name]
            case FlushNames():
                self.certain_names = dict(self.names)
            case Promise(serial):
                self.promised = serial

    def _flushed(self, name: str) -> File:
        file = self.names[name]
        file.certain, file.since = file.content(), []
        return file

    def crashes(self, after: Call, seed: int) -> Iterator[Image]:
        """Yield the disks that a crash now, in the middle of ``after``, may leave."""
        yield {n: f.content() for n, f in self.names.items()}
        yield {n: f.certain for n, f in self.certain_names.items()}
        yield {n: f.certain for n, f in self.names.items()}
        yield {n: f.content() for n, f in self.certain_names.items()}
        draw = random.Random(seed)
        for share in (0.5, 0.8):
            yield {n: f.content(draw, share) for n, f in self.names.items()}
        if isinstance(after, Write):
            size = len(after.data)
            for cut in sorted({1, size // 3, size // 2, size - 1, size // 512 * 512}):
                torn = Write(after.name, after.offset, after.data[:cut])
                kept = {n: f.content() for n, f in self.names.items()}
                yield {**kept, after.name: torn.on(kept[after.name])}


class TracedFile(apsw.VFSFile):
    """An SQLite file that writes down what SQLite does to it."""

    def __init__(self, vfs: str, path: apsw.URIFilename | str, flags: list[int],
                 trace: list[Call]) -> None:  # fmt: skip
        super().__init__(vfs, path, flags)
        whole = path if isinstance(path, str) else path.filename()
        self.name, self.trace = Path(whole).name, trace
        # SQLite flushes the folder together with a new log or rollback journal.
        self.names_too = not flags[0] & apsw.SQLITE_OPEN_MAIN_DB

    def xWrite(self, data: bytes, offset: int) -> None:
        self.trace.append(Write(self.name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self.trace.append(Truncate(self.name, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        self.trace.append(Flush(self.name))
        if self.names_too:
            self.trace.append(FlushNames())
            self.names_too = False
        super().xSync(flags)


class TracedVFS(apsw.VFS):
    """SQLite's door to the system, with a witness."""

    def __init__(self, name: str, trace: list[Call]) -> None:
        self.trace = trace
        super().__init__(name, "")

    def xOpen(
        self, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> TracedFile:
        assert name is not None, "SQLite opened a temporary file"
        path = Path(name if isinstance(name, str) else name.filename())
        if not path.exists():
            self.trace.append(Create(path.name))
        return TracedFile("", name, flags, self.trace)

    def xDelete(self, path: str, flush_names: bool) -> None:
        self.trace.append(Remove(Path(path).name))
        if flush_names:
            self.trace.append(FlushNames())
        super().xDelete(path, flush_names)


@dataclass(frozen=True)
class TracedDisk(RealDisk):
    """The real disk, every call of it written down."""

    trace: list[Call] = field(default_factory=list)

    def write(self, name: str, data: bytes) -> None:
        half = len(data) // 2
        parts = [Write(name, 0, data[:half]), Write(name, half, data[half:])]
        self.trace.extend([Create(name), *parts, Flush(name)])
        super().write(name, data)

    def rename(self, old: str, new: str) -> None:
        self.trace.append(Rename(old, new))
        super().rename(old, new)

    def sync_names(self) -> None:
        self.trace.append(FlushNames())
        super().sync_names()

    def remove(self, name: str) -> None:
        if (self.folder / name).exists():
            self.trace.append(Remove(name))
        super().remove(name)

    def database(self, name: str) -> Database:
        if not (self.folder / name).exists():
            self.trace.append(Create(name))
        return super().database(name)

    def connect(self, path: Path) -> Connection:
        name = f"traced-{id(self.trace)}"
        vfs = TracedVFS(name, self.trace)
        return Holding(apsw.Connection(str(path), vfs=name), vfs)


@dataclass
class Holding:
    """A connection that keeps its VFS alive as long as itself."""

    connection: apsw.Connection
    vfs: TracedVFS

    def execute(self, sql: str, values: tuple[object, ...] = (), /) -> object:
        return self.connection.execute(sql, values)

    def close(self) -> None:
        self.connection.close()
        self.vfs.unregister()


def write_image(image: Image, folder: Path) -> None:
    """Make ``folder`` hold exactly the files of ``image``."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, data in image.items():
        (folder / name).write_bytes(data)
