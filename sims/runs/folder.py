"""Run folders: everything one run leaves behind, and how to find it again.

A folder holds ``config.toml``, ``manifest.json`` (seed, versions, hashes, outcome),
``clients.json`` (who holds what), ``metrics.jsonl`` and ``.csv``, ``personal.json``
(how well each client is served), ``journal/`` (with the checkpoints),
``model.safetensors``, ``report.html``, ``figures/`` and ``run.log``.
Files are replaced whole; ``metrics.jsonl`` and ``run.log`` only grow.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, StorageError
from fedcore.metrics import Row, csv_of, line_of, read_rows

FORMAT = 1  # of the folder; a newer program may raise it
NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is, and what became of it.

    Attributes:
        status: ``"running"`` (a killed run stays so), ``"stopped"`` by Ctrl-C,
            ``"failed"`` or ``"finished"``.
        started: local time with its offset, ISO 8601.
        done: rounds folded.
        config_sha256: of ``config.toml``.
        data_sha256: of all examples, and of the weights of a model that never travel.
        versions: of Python and the libraries that decide the bits.
        machine: cores, threads, platform.
        git: commit of the project's tree, with ``-dirty`` if it was changed; or "".
        sha256: digest of the final model; "" until finished.
        error: why the run failed, if it did.
        wall_s: seconds of work, over all sittings.
    """

    name: str
    status: str
    started: str
    seed: int
    rounds: int
    config_sha256: str
    data_sha256: str
    engine: str
    workers: int
    versions: Mapping[str, str]
    machine: Mapping[str, str | int]
    git: str = ""
    done: int = 0
    sha256: str = ""
    error: str = ""
    wall_s: float = 0.0
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Clients:
    """Who took part and what they hold.

    Attributes:
        count: clients in the federation.
        examples: over all clients.
        labels: peer -> label -> examples, of the first clients only.
    """

    count: int
    examples: int
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """The name to give to ``resume``, ``show`` and the others."""
        return self.path.resolve().name

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file whole; ``name`` may be inside a folder of this one."""
        data = content.encode() if isinstance(content, str) else content
        file = self.path / name
        RealDisk(file.parent).replace(file.name, data)

    def read(self, name: str) -> str:
        """Return a text file of the folder.

        Raises:
            StorageError: it is missing, unreadable or no text.
        """
        try:
            return RealDisk(self.path).read(name).decode()
        except UnicodeDecodeError as error:
            raise StorageError(f"{self.path / name} is damaged: {error}") from error

    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            ConfigError: the folder is no run, or a newer program wrote it.
            StorageError: the file is damaged.
        """
        if not (self.path / "manifest.json").exists():
            raise ConfigError(
                f"{self.path} is not a run folder (it has no manifest.json): "
                "`fedcore sim list` shows the runs"
            )
        return _manifest(self._json("manifest.json"), self.path)

    def note(self, manifest: Manifest) -> Manifest:
        """Write ``manifest`` and return it."""
        self.write("manifest.json", as_json(asdict(manifest)))
        return manifest

    def clients(self) -> Clients:
        """Return who took part."""
        value = self._json("clients.json")
        try:
            return Clients(**value)
        except TypeError as error:
            raise StorageError(f"{self.path}/clients.json is damaged") from error

    def rows(self) -> list[Row]:
        """Return the rows of metrics so far."""
        if not (self.path / "metrics.jsonl").exists():
            return []
        return read_rows(self.read("metrics.jsonl"))

    def personal(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Return figures by kind and client, if they were measured."""
        there = (self.path / "personal.json").exists()
        return self._json("personal.json") if there else {}

    def add(self, row: Row) -> None:
        """Append one row of metrics.

        Raises:
            StorageError: the disk is full or broken.
        """
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line_of(row))
        except OSError as error:
            raise StorageError(
                f"write {path}: {error.strerror}; free some space, then "
                "`fedcore sim resume`"
            ) from error

    def keep_rows(self, done: int) -> list[Row]:
        """Forget the rows after round ``done``; return the others."""
        rows = [row for row in self.rows() if row.round <= done]
        self.write("metrics.jsonl", "".join(map(line_of, rows)))
        return rows

    def write_csv(self) -> None:
        """Write the rows again as ``metrics.csv``."""
        self.write("metrics.csv", csv_of(self.rows()))

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.read(name))
        except ValueError as error:
            raise StorageError(
                f"{self.path / name} is damaged ({error}): restore it from a backup, "
                "or run again"
            ) from error
        if not isinstance(value, dict):
            raise StorageError(f"{self.path / name} is damaged: not an object")
        return value


def as_json(value: object) -> str:
    """Return ``value`` as the text of a JSON file for people and programs."""
    return json.dumps(value, indent=2) + "\n"


def _manifest(value: Mapping[str, Any], path: Path) -> Manifest:
    written = value.get("format")
    if isinstance(written, int) and written > FORMAT:
        raise ConfigError(
            f"{path} was written by a newer Fedcore (format {written}; this one reads "
            f"up to {FORMAT}): upgrade Fedcore to use it"
        )
    names = {f.name for f in fields(Manifest)}
    try:
        return Manifest(**{k: v for k, v in value.items() if k in names})
    except TypeError as error:
        raise StorageError(f"{path}/manifest.json is damaged: {error}") from error


def new_folder(out: Path, name: str, now: datetime) -> RunFolder:
    """Make and return the folder ``<out>/<date>-<time>-<name>``.

    Raises:
        ConfigError: ``name`` cannot be part of a folder's name, or ``out`` is a file.
        StorageError: the folder cannot be made.
    """
    check_name(name)
    stem = f"{now:%Y-%m-%d-%H%M%S}-{name}"
    for again in range(1, 100):
        path = out / (stem if again == 1 else f"{stem}-{again}")
        if make_folder(path):
            return RunFolder(path)
    raise ConfigError(f"there are too many runs called {stem} in {out}")


def make_folder(path: Path) -> bool:
    """Make a private folder with its parents; return False if it exists.

    Raises:
        ConfigError: it cannot be made there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except (FileExistsError, NotADirectoryError) as error:
        if path.is_dir():
            return False
        raise ConfigError(
            f"cannot make the folder {path}: a part of this path is a file; choose "
            "another place with --out"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {path}: {error.strerror}; choose a place that you "
            "may write to with --out"
        ) from error
    return True


def check_name(name: str) -> None:
    """Refuse a name that cannot be part of a folder's name."""
    if not NAME_RULE.fullmatch(name):
        raise ConfigError(
            f"the name {name!r} cannot be part of a folder's name: use letters, "
            "digits, '-', '_' and '.', at most 60, and begin with a letter or digit"
        )
