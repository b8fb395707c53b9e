"""Whatever is lost on the way, and whoever is killed, the bits stay the same."""

from functools import cache

import pytest

from clients.split.channel import MemoryChannel
from clients.split.client import SplitClient
from clients.split.cut import Cut
from clients.split.server import SplitServer
from clients.trainers.adamw import AdamW
from clients.trainers.sgd import SGD
from fedcore.disk import RealDisk
from fedcore.errors import ConfigError, PeerLostError, ProtocolError, StorageError
from fedcore.params import digest
from tests.split_cases import start_of, task_of, unsplit

STEPS = 2
TRAINER = SGD(lr=0.1, momentum=0.9)
TASK, START = task_of("conv"), start_of("conv")
PLAIN, SHAPED = Cut(3), Cut(3, 1)


class KilledError(Exception):
    """Stands for the end of the client's process."""


class Breaking(MemoryChannel):
    """Breaks at one message of all: before it gets there, or before its answer does."""

    def __init__(self, visit, world):
        super().__init__(visit)
        self.world = world

    def send(self, data):
        self.world.sent += 1
        now = self.world.sent == self.world.at
        if now and not self.world.delivered:
            raise self.world.error
        super().send(data)
        if now:
            raise self.world.error


class World:
    """A server, and a line to it that breaks once, at message ``at``."""

    def __init__(self, cut, at, delivered, error, folder=None):
        self.cut, self.at, self.delivered, self.error = cut, at, delivered, error
        self.sent, self.folder = 0, folder
        self.start_server()

    def start_server(self):
        self.server = SplitServer(TASK, self.cut, START, TRAINER, folder=self.folder)

    def dial(self):
        return Breaking(self.server.visit(), self)


@cache
def expected():
    return digest(unsplit(TASK, START, STEPS, TRAINER)[0])


def together(done, world):
    return digest({**done.params, **world.server.params()})


def messages(cut):
    return range(1, 3 + STEPS * (2 if cut.head else 1))


EVERY_BREAK = [
    (cut, at, delivered)
    for cut in (PLAIN, SHAPED)
    for at in messages(cut)
    for delivered in (False, True)
]


@pytest.mark.parametrize(("cut", "at", "delivered"), EVERY_BREAK, ids=str)
def test_a_lost_connection_changes_no_bit(cut, at, delivered, monkeypatch):
    monkeypatch.setattr("clients.split.client.WAIT_S", 0.0)
    world = World(cut, at, delivered, PeerLostError("gone"))
    done = SplitClient(TASK, cut, TRAINER).train(world.dial, STEPS, START)
    assert world.sent > at
    assert together(done, world) == expected()


@pytest.mark.parametrize(("cut", "at", "delivered"), EVERY_BREAK[1::3], ids=str)
def test_a_killed_client_goes_on_from_its_folder(cut, at, delivered, tmp_path):
    world = World(cut, at, delivered, KilledError())
    client = SplitClient(TASK, cut, TRAINER, folder=tmp_path)
    with pytest.raises(KilledError):
        client.train(world.dial, STEPS, START)
    assert together(client.train(world.dial, STEPS, START), world) == expected()


@pytest.mark.parametrize(("cut", "at", "delivered"), EVERY_BREAK[2::3], ids=str)
def test_both_sides_killed_go_on_from_their_folders(cut, at, delivered, tmp_path):
    world = World(cut, at, delivered, KilledError(), tmp_path / "server")
    client = SplitClient(TASK, cut, TRAINER, folder=tmp_path / "client")
    with pytest.raises(KilledError):
        client.train(world.dial, STEPS, START)
    world.start_server()
    assert together(client.train(world.dial, STEPS, START), world) == expected()


def test_a_finished_session_is_not_trained_again(tmp_path):
    world = World(PLAIN, 0, False, KilledError())
    client = SplitClient(TASK, PLAIN, TRAINER, folder=tmp_path)
    first = client.train(world.dial, STEPS, START)
    again = client.train(world.dial, STEPS, START)
    assert together(again, world) == together(first, world) == expected()


def test_a_step_that_could_not_be_kept_is_not_told(tmp_path, monkeypatch):
    """The disk is full once; then both sides are killed before the next step."""
    world = World(PLAIN, 5, False, KilledError(), tmp_path / "server")
    client = SplitClient(TASK, PLAIN, TRAINER, folder=tmp_path / "client")
    monkeypatch.setattr(world.server, "_disk", Full(tmp_path / "server"))
    with pytest.raises(StorageError):
        client.train(world.dial, STEPS, START)
    monkeypatch.undo()
    with pytest.raises(KilledError):
        client.train(world.dial, STEPS, START)
    world.start_server()
    assert together(client.train(world.dial, STEPS, START), world) == expected()


class Full(RealDisk):
    """A disk without room."""

    def replace(self, name, data):
        raise StorageError("no space left")


@pytest.mark.parametrize(
    ("cut", "trainer", "told"),
    [(Cut(2), TRAINER, "not this part"), (PLAIN, AdamW(), "another rule")],
)
def test_what_others_kept_is_refused(cut, trainer, told, tmp_path):
    world = World(PLAIN, 0, False, KilledError(), tmp_path / "server")
    folder = tmp_path / "client"
    SplitClient(TASK, PLAIN, TRAINER, folder=folder).train(world.dial, STEPS, START)
    with pytest.raises(ConfigError, match=f"{told}.* name another folder"):
        SplitClient(TASK, cut, trainer, folder=folder).train(world.dial, STEPS, START)
    with pytest.raises(ConfigError, match=f"{told}.* name another folder"):
        SplitServer(TASK, cut, START, trainer, folder=tmp_path / "server")


def test_a_client_without_memory_cannot_go_on_in_the_same_session():
    world = World(PLAIN, 3, True, KilledError())
    client = SplitClient(TASK, PLAIN, TRAINER)
    with pytest.raises(KilledError):
        client.train(world.dial, STEPS, START)
    with pytest.raises(ProtocolError, match=r"at step 2 of session 0.*another version"):
        client.train(world.dial, STEPS, START)
    assert client.train(world.dial, STEPS, START, version=1).steps == STEPS


def test_a_server_that_stays_away_is_a_lost_peer(monkeypatch):
    monkeypatch.setattr("clients.split.client.WAIT_S", 0.0)
    dials = []

    def dial():
        dials.append(1)
        raise PeerLostError("nobody there")

    with pytest.raises(PeerLostError, match="nobody there"):
        SplitClient(TASK, PLAIN, TRAINER, tries=3).train(dial, STEPS, START)
    assert len(dials) == 3
