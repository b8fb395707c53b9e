"""A blob over real channels from two sources, by a program that is killed."""

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from fedcore.errors import PeerLostError
from p2p.channel.caps import Caps
from p2p.channel.certificates import Credentials
from p2p.channel.channel import channel
from p2p.content.adding import add_bytes, read_bytes
from p2p.content.manifest import MIB
from p2p.content.shelf import Shelf
from p2p.content.space import FolderSpace, MemorySpace
from p2p.content.swarm import Ended, Swarm
from p2p.driver import Driver
from p2p.identity.keys import Key
from p2p.machine import Down, Told, Up

SIZE = 24 * MIB
KEYS = [Key(bytes([i]) * 32) for i in (1, 2, 3)]  # two sources and the fetcher


class Node:
    """A swarm on channels, with nothing else around it."""

    def __init__(self, key, shelf, up_bytes_s=None):
        self.me, self.channels = Credentials.of(key), {}
        self.ended, self.caps = Future(), Caps(up_bytes_s=up_bytes_s)
        self.swarm = Swarm(shelf, random.Random(key.seed))
        self.driver = Driver(self.swarm, self, lambda note: None).start()

    def open(self, sock, key, *, dialer):
        other = Credentials.of(key)
        one = channel(
            sock, self.me, other.certificate, dialer=dialer, serve=self, caps=self.caps
        )
        self.channels[key.peer] = one
        one.on_close(lambda why: self.closed(one, key.peer, str(why)))
        self.driver.post(Up(key.peer))

    def closed(self, one, peer, why):
        if self.channels[peer] is one:  # and no newer one
            self.driver.post(Down(peer, why))

    def asked(self, peer, topic, body):
        return self.driver.asked(peer, topic, body)

    def told(self, peer, topic, body):
        self.driver.post(Told(peer, topic, body))

    def ask(self, ask):
        if ask.peer in self.channels:
            return self.channels[ask.peer].ask(ask.topic, ask.body, ask.timeout_s)
        failed = Future()
        failed.set_exception(PeerLostError("no channel"))
        return failed

    def tell(self, tell):
        self.channels[tell.peer].tell(tell.topic, tell.body)

    def do(self, effect, post):
        if isinstance(effect, Ended):
            self.ended.set_result(effect.why)

    def close(self):
        for one in self.channels.values():
            one.close()
        self.driver.close()


def accept(node, server):
    """Open a channel for each fetcher that dials, until the server is closed."""
    while True:
        try:
            sock, _ = server.accept()
        except OSError:
            return
        node.open(sock, KEYS[2], dialer=False)


def fetch(folder, cid, *ports):
    """What the fetching program does."""
    node = Node(KEYS[2], Shelf(FolderSpace(Path(folder))))
    for key, port in zip(KEYS, ports, strict=False):
        sock = socket.create_connection(("127.0.0.1", int(port)))
        node.open(sock, key, dialer=True)
    swarm = node.swarm
    node.driver.call(lambda now: (None, swarm.want(now, cid)))
    while not node.ended.done():
        seen = node.driver.call(lambda now: (swarm.progress(cid, now), ()))
        say(seen.kept_bytes if seen else SIZE)
        time.sleep(0.02)
    node.close()
    say(f"ended {node.ended.result()}")


def say(words):
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def start(folder, cid, ports):
    program = [sys.executable, "-m", __name__, str(folder), cid, *map(str, ports)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=root)


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(tmp_path):
    data = random.Random(1).randbytes(SIZE)
    sources = [Node(key, Shelf(MemorySpace()), 12e6) for key in KEYS[:2]]
    cid, _ = [add_bytes(node.swarm.shelf, data) for node in sources]
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in sources]
    ports = [server.getsockname()[1] for server in servers]
    threads = [
        threading.Thread(target=accept, args=pair)
        for pair in zip(sources, servers, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        with start(tmp_path / "shelf", cid, ports) as first:
            while int(first.stdout.readline()) < SIZE // 3:
                pass
            first.send_signal(signal.SIGKILL)
        before = sum(one.sent_bytes for n in sources for one in n.channels.values())
        kept = sum(Shelf(FolderSpace(tmp_path / "shelf")).have(cid)) * MIB // 4
        with start(tmp_path / "shelf", cid, ports) as second:
            lines = second.stdout.read().split("\n")
        assert lines[-2] == "ended "
        again = sum(one.sent_bytes for n in sources for one in n.channels.values())
        assert kept >= SIZE // 3
        assert before > 0
        assert again < SIZE - kept + 4 * MIB  # and not all once more
    finally:
        for server in servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in threads:
            thread.join()
        for node in sources:
            node.close()
    assert read_bytes(Shelf(FolderSpace(tmp_path / "shelf")), cid) == data


if __name__ == "__main__":
    fetch(*sys.argv[1:])
