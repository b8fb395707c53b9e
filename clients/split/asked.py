"""What the command line asks for, as objects."""

import argparse
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from clients.split.channel import Visit
from clients.split.cut import Cut
from clients.split.messages import decode
from clients.split.pareto import Place
from clients.split.server import SplitServer
from clients.split.slow import Net, SlowChannel
from clients.split.sockets import Listening
from clients.split.stage import Stage
from clients.split.terms import Trainer
from clients.tasks import load_task
from clients.tasks.dataset import Dataset, Shard
from fedcore.config import build, choice, from_flags
from fedcore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Keys:
    """What ``--set`` takes besides the task and its settings."""

    trainer: Trainer = choice("clients.trainers:TRAINERS", "sgd")


def chosen(args: argparse.Namespace) -> tuple[Dataset, Trainer]:
    """Return the task and the trainer that ``--set`` names.

    Raises:
        ConfigError: a key or value is wrong.
    """
    given = dict(from_flags(args.set))
    task = {
        k.partition(".")[2]: given.pop(k) for k in [*given] if k.startswith("task.")
    }
    settings = {key: str(setting.value) for key, setting in task.items()}
    name = settings.pop("name", "digits")
    return load_task(name, settings), build(Keys, given).trainer


def share(text: str, dataset: Dataset) -> Shard:
    """Return the rows that ``text`` such as ``2/5`` means: each fifth, from the second.

    Raises:
        ConfigError: it has another form, or means no row.
    """
    mine, slash, whole = text.partition("/")
    if not (slash and mine.isdecimal() and whole.isdecimal()):
        raise ConfigError(f"--share {text}: write I/N, such as 1/3")
    rows = np.arange(int(mine) - 1, len(dataset.train[0]), max(int(whole), 1))
    if not (1 <= int(mine) <= int(whole) and len(rows)):
        raise ConfigError(
            f"--share {text}: I must be in 1 to N, and N at most the rows"
        )
    return Shard(dataset, rows)


def net(args: argparse.Namespace) -> Net:
    """Return the link that ``--delay-ms`` and ``--mbit`` describe.

    Raises:
        ConfigError: one is out of its range.
    """
    return Net(1e-3 * args.delay_ms, 1e6 / 8 * args.mbit)


def place(args: argparse.Namespace) -> Place:
    """Return the devices and the link that the flags describe.

    Raises:
        ConfigError: one is out of its range.
    """
    return Place(args.client, args.server, net(args))


def client_tls(ca: Path | None) -> ssl.SSLContext | None:
    """Return TLS that trusts the certificates in ``ca``; None without.

    Raises:
        ConfigError: the file cannot be used.
    """
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise ConfigError(f"--ca {ca}: {error.strerror or error}") from error


def server_tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return TLS that shows the certificate in ``cert``; None without.

    Raises:
        ConfigError: the files cannot be used, or there is only a key.
    """
    if cert is None and key is not None:
        raise ConfigError("--key needs --cert, the certificate that it belongs to")
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise ConfigError(f"--cert {cert}, --key {key}: {error}") from error
    return context


def listening(args: argparse.Namespace) -> Listening:
    """Return the server that the flags of ``fedcore split serve`` ask for.

    Raises:
        ConfigError: something does not fit, or the port is taken.
    """
    dataset, trainer = chosen(args)
    task, start = dataset.whole(), dataset.start(args.seed)
    server = SplitServer(
        task,
        Cut(args.at, args.head),
        start,
        trainer,
        apart=args.apart,
        folder=args.folder,
    )
    x, _ = next(task.batches(0))
    stage, link = Stage(dataset.new_model(), x, args.slowdown), net(args)
    return Listening(
        lambda: Door(server, stage),
        args.host,
        args.port,
        server_tls(args.cert, args.key),
        None if link == Net() else partial(SlowChannel, net=link),
    )


class Door:
    """A visit for training or for inference, as its first message says."""

    def __init__(self, server: SplitServer, stage: Stage) -> None:
        self._server, self._stage = server, stage
        self._inside: Visit | None = None

    def take(self, data: bytes) -> bytes:
        """Return the answer to ``data``.

        Raises:
            ProtocolError: it breaks a rule.
        """
        if self._inside is None:
            infer = decode(data).kind == "infer"
            self._inside = self._stage if infer else self._server.visit()
        return self._inside.take(data)
