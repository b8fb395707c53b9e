"""A key on disk is whole, private and never overwritten."""

import os
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fedcore.errors import ConfigError, StorageError
from p2p.identity.keyfile import load_key, save_key
from tests.identity_cases import ANN, BOB


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "key.pem"


def test_a_key_comes_back_and_is_its_owners_alone(path):
    save_key(path, ANN)
    assert load_key(path) == ANN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["key.pem"]


def test_a_key_is_never_overwritten(path):
    save_key(path, ANN)
    with pytest.raises(ConfigError, match="never overwritten"):
        save_key(path, BOB)
    assert load_key(path) == ANN
    assert [p.name for p in path.parent.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused_with_the_fix(path, mode):
    save_key(path, ANN)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}\): chmod 600 .*key.pem"):
        load_key(path)


def test_a_key_of_another_user_is_refused(path, monkeypatch):
    save_key(path, ANN)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load_key(path)


def test_what_is_no_key_is_named(path):
    with pytest.raises(ConfigError, match="there is no key"):
        load_key(path)
    path.parent.mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        load_key(path.parent)
    other = generate_private_key(SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, words in [
        (b"", "can be read"),
        (b"\0" * 9999, "can be read"),
        (pem, "Ed25519"),
    ]:
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=words):
            load_key(path)


def test_a_full_or_closed_folder_is_a_storage_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StorageError, match="write key"):
        save_key(file / "key.pem", ANN)
    with pytest.raises(StorageError, match="read key"):
        load_key(file / "key.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_reads_it(path):
    save_key(path, ANN)
    command = ["openssl", "pkey", "-in", str(path), "-text", "-noout"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    digits = "".join(said.partition("pub:")[2].split()).replace(":", "")
    assert digits == ANN.public.hex()
