from pathlib import Path

import numpy as np
import pytest

from clients.split.asked import client_tls, server_tls, share
from clients.split.cli import HEAD
from fedcore.cli import main
from fedcore.errors import ConfigError
from tests.split_cases import task_of


def test_where_prints_a_line_for_every_cut(capsys):
    assert main(["split", "where", "--client", "8", "--delay-ms", "5"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == HEAD
    assert [line.split()[-6] for line in lines] == ["0", "1", "2", "3", "4"]
    assert any(line.startswith("*") for line in lines)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["where", "--client", "0.5"], "slowdown must be >= 1: 0.5"),
        (["where", "--client", "inf"], "slowdown must be >= 1: inf"),
        (["where", "--mbit", "0"], "bytes_per_s > 0"),
        (["where", "--set", "task.name=digts"], "no task 'digts'; the nearest is"),
        (["where", "--set", "trainer.lrr=1"], "trainer.lr"),
        (["serve", "--at", "9"], "the model has 4 blocks"),
        (["serve", "--set", "trainer.clip_norm=1"], "set trainer.clip_norm=0"),
        (["serve", "--port", "65536"], "a port is in 0 to 65535, not 65536"),
        (["serve", "--key", "key.pem"], "--key needs --cert"),
        (["train", "--port", "99999"], "a port is in 1 to 65535, not 99999"),
        (["train", "--share", "3"], "--share 3: write I/N"),
        (["train", "--share", "3/2"], "I must be in 1 to N"),
        (["train", "--steps", "0"], "steps must be >= 1, not 0"),
        (["train", "--ca", "no.pem"], "--ca no.pem: No such file"),
        (["serve", "--cert", "no.pem"], "--cert no.pem, --key None: "),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(words, told, capsys):
    assert main(["split", *words]) == 1
    assert told in capsys.readouterr().err


def test_shares_are_every_nth_row():
    dataset = task_of("mlp").dataset
    shares = [share(f"{i}/3", dataset).rows for i in (1, 2, 3)]
    assert shares[1].tolist() == [1, 4, 7, 10, 13, 16, 19]
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(22))


def test_no_file_means_no_tls():
    assert client_tls(None) is None
    assert server_tls(None, None) is None
    with pytest.raises(ConfigError, match="--ca"):
        client_tls(Path(__file__))
