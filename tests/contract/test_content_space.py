"""What every place for blobs promises."""

import pytest

from fedcore.errors import StorageError
from p2p.content.space import FolderSpace, MemorySpace


@pytest.fixture(params=["memory", "folder"])
def space(request, tmp_path):
    return MemorySpace() if request.param == "memory" else FolderSpace(tmp_path / "s")


def test_a_new_file_is_zeros_and_is_written_anywhere(space):
    assert list(space.names()) == []
    space.reserve("a", 10)
    space.write("a", 3, b"xyz")
    space.write("a", 9, memoryview(b"!"))
    assert space.read("a", 0, 10) == b"\0\0\0xyz\0\0\0!"
    assert space.read("a", 4, 3) == b"yz\0"
    assert space.read("a", 8, 100) == b"\0!"
    assert space.size("a") == 10


def test_files_are_replaced_renamed_and_removed(space):
    space.replace("a", b"one")
    space.replace("a", b"three")
    space.rename("a", "b")
    assert list(space.names()) == ["b"]
    assert space.read("b", 0, 99) == b"three"
    space.reserve("c", 0)
    space.rename("b", "c")
    assert space.read("c", 0, 99) == b"three"
    space.remove("c")
    space.remove("c")
    assert list(space.names()) == []


@pytest.mark.parametrize("do", ["size", "read", "write", "sync", "rename", "use"])
def test_what_is_not_there_cannot_be_touched(space, do):
    space.replace("here", b"")
    given = {"read": (0, 1), "write": (0, b"x"), "rename": ("new",)}.get(do, ())
    with pytest.raises(StorageError):
        getattr(space, do)("missing", *given)
    assert list(space.names()) == ["here"]


def test_the_last_one_used_ranks_highest(space):
    for name in "abc":
        space.replace(name, b"")
        space.use(name)
    space.use("a")
    assert sorted("abc", key=space.used) == ["b", "c", "a"]


def test_what_was_synced_survives(space):
    space.reserve("a", 4)
    space.write("a", 0, b"1234")
    space.sync("a")
    if isinstance(space, MemorySpace):
        space.write("a", 1, b"xx")
        space.crash()
        assert space.read("a", 0, 4) == b"1\0\x004"
    else:
        again = FolderSpace(space.folder)
        assert again.read("a", 0, 4) == b"1234"
        assert (space.folder.stat().st_mode & 0o777) == 0o700
        assert ((space.folder / "a").stat().st_mode & 0o777) == 0o600
