import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedcore import checkpoint
from fedcore.checkpoint import Checkpoints, pack, unpack
from fedcore.desk import Desk
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, StorageError
from fedcore.pacing import Waiting
from strategies.fedavg import Model

HINT = Desk[Model, Waiting]
DESK = Desk(Model(1, {"w": torch.arange(3.0)}), Waiting(round=1))


def at(serial: int) -> Desk[Model, Waiting]:
    return replace(DESK, serial=serial)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(RealDisk(tmp_path))
    assert kept.newest(HINT) is None
    assert [kept.save(at(n)) for n in (0, 5, 9)] == [0, 0, 5]
    assert kept.serials() == [5, 9]
    newest = kept.newest(HINT)
    assert newest is not None
    assert newest.serial == 9


def test_any_safetensors_reader_opens_it() -> None:
    tensors = safetensors.torch.load(pack("desk", DESK))
    assert [t.tolist() for t in tensors.values()] == [[0.0, 1.0, 2.0]]


def test_every_changed_or_missing_byte_is_noticed() -> None:
    data = pack("desk", DESK)
    assert unpack("desk", HINT, data).serial == 0
    for at_byte in range(len(data)):
        changed = bytearray(data)
        changed[at_byte] ^= 0x21
        try:
            back = unpack("desk", HINT, bytes(changed))
        except (StorageError, ConfigError):
            continue
        assert pack("desk", back) == data, at_byte  # a space in the padding, say
    for size in range(len(data)):
        with pytest.raises(StorageError):
            unpack("desk", HINT, data[:size])


def test_a_damaged_desk_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(RealDisk(tmp_path))
    kept.save(at(5))
    kept.save(at(9))
    path = tmp_path / "desk-000000000009.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "desk-000000000007.safetensors").write_bytes(b"not ours")
    with caplog.at_level(logging.WARNING):
        newest = kept.newest(HINT)
    assert newest is not None
    assert newest.serial == 5
    assert "desk-000000000009.safetensors is left out" in caplog.text
    (tmp_path / "desk-000000000005.safetensors").write_bytes(pack("event", at(5)))
    with pytest.raises(StorageError, match="none of the checkpoints"):
        kept.newest(HINT)


def test_a_newer_format_is_refused_and_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(RealDisk(tmp_path))
    kept.save(at(5))
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    kept.save(at(9))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"format 2 .* upgrade"):
        kept.newest(HINT)


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(StorageError, match="this is a event, not a desk"):
        unpack("desk", HINT, pack("event", DESK))
    header = json.dumps({"__metadata__": {"fedcore": "[]"}}).encode()
    with pytest.raises(StorageError, match="foreign"):
        unpack("desk", HINT, len(header).to_bytes(8, "little") + header)


def test_a_strategy_of_another_shape_cannot_read_it(tmp_path: Path) -> None:
    kept = Checkpoints(RealDisk(tmp_path))
    kept.save(at(5))
    with pytest.raises(StorageError):
        kept.newest(Desk[Waiting, Waiting])


def test_drafts_of_a_crash_are_swept_and_nothing_else(tmp_path: Path) -> None:
    mine, other = "desk-000000000001.safetensors.tmp", "notes.tmp"
    for name in (mine, other):
        (tmp_path / name).write_bytes(b"x")
    Checkpoints(RealDisk(tmp_path)).sweep()
    assert [p.name for p in tmp_path.iterdir()] == [other]


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    Checkpoints(RealDisk(folder)).save(DESK)
    modes = [p.stat().st_mode & 0o777 for p in (folder, *folder.iterdir())]
    assert modes == [0o700, 0o600]
