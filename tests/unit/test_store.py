import errno
import gzip
import struct
from hashlib import sha256

import pytest

from clients.tasks import load_task
from clients.tasks.catalog import CATALOG
from clients.tasks.cli import installed
from clients.tasks.idx import parse_idx, read_idx
from clients.tasks.store import FILES, KEPT, Kept, found, get, run_tool
from fedcore.errors import ConfigError, StorageError


def idx(*shape, code=8, data=None):
    head = struct.pack(f">2x2B{len(shape)}I", code, len(shape), *shape)
    size = 1
    for n in shape:
        size *= n
    return head + (bytes(range(size)) if data is None else data)


def test_idx_files_are_read_plain_and_gzipped(tmp_path):
    (tmp_path / "a").write_bytes(idx(2, 3))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(2, 3)))
    for name in ("a", "a.gz"):
        assert read_idx(tmp_path / name).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\0",
        b"PK\x08\1\0\0\0\0",
        idx(2, 3)[:7],
        idx(2, 3)[:-1],
        idx(2, 3) + b"x",
        idx(2, code=13),
        idx(1, 1, 1, 1, 1),
        idx(2**31, 2**31, 2**31, 2**31, data=b"x"),
    ],
)
def test_damaged_idx_files_are_refused(data):
    with pytest.raises(StorageError, match="the file"):
        parse_idx(data, "the file")


@pytest.mark.parametrize(
    "data", [b"no gzip", gzip.compress(b"x" * 99, mtime=0)[:-9], b""]
)
def test_damaged_gzip_files_are_refused(tmp_path, data):
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(StorageError, match=r"a\.gz"):
        read_idx(tmp_path / "a.gz")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StorageError, match="nothing"):
        read_idx(tmp_path / "nothing")


def test_data_that_are_not_here_come_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(ConfigError, match=r"run `fedcore data get mnist --dir "):
        load_task("mnist", {"data_dir": str(tmp_path)})
    assert found("mnist", str(tmp_path)) is None
    assert installed(tmp_path)["mnist"] == CATALOG["mnist"].get


def test_files_that_are_not_mnist_are_refused(tmp_path):
    home = tmp_path / "mnist"
    home.mkdir()
    for file in FILES:
        (home / file).write_bytes(idx(2, 3))
    with pytest.raises(StorageError, match="which is not mnist"):
        load_task("mnist", {"data_dir": str(tmp_path)})
    with pytest.raises(StorageError, match="SHA-256"):
        get("mnist", tmp_path)


def kept(fetch):
    known = tuple(sha256(idx(2, n)).hexdigest() for n in range(1, 5))
    return Kept(known, fetch)


def four_files(folder):
    for n, file in enumerate(FILES, 1):
        (folder / file).write_bytes(idx(2, n))
    (folder / "package.tgz").write_bytes(b"what they came in")
    (folder / "tree").mkdir()


def test_fetched_data_appear_whole(tmp_path, monkeypatch):
    monkeypatch.setitem(KEPT, "tiny", kept(four_files))
    home = get("tiny", tmp_path)
    assert sorted(p.name for p in home.iterdir()) == sorted(FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    assert found("tiny", str(tmp_path)) == {file: home / file for file in FILES}
    monkeypatch.setitem(KEPT, "tiny", kept(lambda folder: 1 / 0))
    assert get("tiny", tmp_path) == home  # nothing is fetched twice
    (home / FILES[2]).write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"t10k-images.*SHA-256 differs"):
        get("tiny", tmp_path)


def damaged(folder):
    four_files(folder)
    (folder / FILES[0]).write_bytes(b"")


def full(folder):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("fetch", "message"),
    [
        (damaged, "SHA-256"),
        (full, "No space left"),
        (lambda folder: None, "cannot be read"),
        (lambda folder: run_tool(["no-such-program"], folder), "not installed"),
        (lambda folder: run_tool(["ls", "no-such-file"], folder), "no-such-file"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(tmp_path, monkeypatch, fetch, message):
    monkeypatch.setitem(KEPT, "tiny", kept(fetch))
    with pytest.raises((StorageError, ConfigError), match=message):
        get("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write into"):
        get("mnist", tmp_path / "file" / "data")
