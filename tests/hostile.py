"""Attackers' tools: crowds of sockets, and members gone bad; and how to see harm."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from clients.peer import home as homes
from clients.peer.control import ask
from clients.peer.daemon import PeerNode
from clients.peer.settings import Find, Listen, Page, PeerSettings
from fedcore.errors import FedError
from p2p.channel.channel import Channel
from p2p.identity.invites import read_invite
from p2p.identity.keys import Key
from p2p.identity.openings import open_subkey, open_with
from p2p.state.chain import Entry, Kind, Tip, first_link, sign_head
from p2p.state.encoding import Item
from p2p.state.messages import News, encode
from p2p.state.segments import Branch, Segment
from tests.nodes import Node

MOST_GROWTH_BYTES = 16 << 20
STATE = "/state/1"


# ---- harm ----------------------------------------------------------------------------


def size_bytes(node: Node) -> int:
    """Return the memory of a node."""
    assert node.process is not None
    return int(psutil.Process(node.process.pid).memory_info().rss)


@dataclass
class Pair:
    """Two honest nodes that go on with their work while somebody attacks.

    Attributes:
        folder: for the files they exchange.
        names: of all that they have shared so far.
        strange: how many things attackers have shared so far.
    """

    ann: Node
    bob: Node
    folder: Path
    names: list[str] = field(default_factory=list)
    strange: int = 0

    def exchange(self) -> None:
        """Let each answer the other, and get what it has put."""
        for one, other in ((self.ann, self.bob), (self.bob, self.ann)):
            name = f"thing {len(self.names)}"
            file, got = self.folder / name, self.folder / f"got {len(self.names)}"
            file.write_bytes(random.randbytes(50_000))
            asked = {"do": "ping", "peer": other.home.name, "count": 1}
            assert ask(one.home, asked)["took_s"], "no answer to a ping"
            asked = {"do": "put", "file": str(file), "name": name}
            cid = ask(one.home, asked)["cid"]
            self.names.append(name)
            ask(other.home, {"do": "get", "content": cid, "out": str(got)})
            assert got.read_bytes() == file.read_bytes()

    @contextmanager
    def unharmed(self, *, entries: int = 0, shares: int = 0) -> Iterator[None]:
        """Attack in the block: the two exchange meanwhile, agree, and do not grow.

        Args:
            entries: what the attacker may add to the state.
            shares: what it may add to what is shared.
        """
        before = [size_bytes(node) for node in self.both]
        wanted = self.ann.status()["entries"] + entries - len(self.names)
        self.strange += shares
        over = threading.Event()

        def work() -> None:
            self.exchange()
            while not over.is_set():
                self.exchange()
                over.wait(1.0)

        worker = _Raising(work)
        try:
            yield
        finally:
            over.set()
            worker.result(60)
        self.exchange()
        self.ann.until(self.level, "both are level", 30)
        for node, then_bytes in zip(self.both, before, strict=True):
            expected, found = wanted + len(self.names), node.status()["entries"]
            assert found == expected, f"{found} entries, not {expected}"
            listed = len(node.status()["contents"])
            assert listed == len(self.names) + self.strange, f"{listed} things"
            kept = lambda n=node, t=then_bytes: size_bytes(n) - t < MOST_GROWTH_BYTES  # noqa: E731
            node.until(kept, f"as small as {then_bytes >> 20} MB, and 16 MB more", 10)

    @property
    def both(self) -> tuple[Node, Node]:
        return self.ann, self.bob

    def level(self) -> bool:
        """Return whether both hold one state."""
        return len({node.status()["root"] for node in self.both}) == 1

    def told(self, word: str) -> None:
        """Wait until both have noted ``word``."""
        for node in self.both:
            node.until(lambda node=node: word in node.notes(), f"told of {word}", 20)


class _Raising:
    """A thread whose error is raised by who waits for it."""

    def __init__(self, action) -> None:
        self._future: Future[None] = Future()
        self._action = action
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._action())
        except BaseException as error:  # noqa: BLE001 - raised again in ``result``
            self._future.set_exception(error)

    def result(self, timeout_s: float) -> None:
        self._future.result(timeout_s)


# ---- strangers -----------------------------------------------------------------------


@dataclass
class Crowd:
    """Many connections to one port. A context manager; refusals are passed over."""

    port: int
    host: str = "127.0.0.1"
    socks: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self.socks:
            with suppress(OSError):
                self.socks.pop().close()

    def come(self, count: int, says: bytes = b"") -> None:
        """Open ``count`` connections more; each says ``says`` and then nothing.

        Nobody waits for them to be taken: what does not fit is not sent.
        """
        for number in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            self.socks.append(sock)
            with suppress(OSError):
                sock.connect((self.host, self.port))
            if number % 50 == 0:
                time.sleep(0.02)
        self.say(says)

    def say(self, data: bytes) -> None:
        """Let each say ``data``, as far as it is heard."""
        for sock in self.socks:
            with suppress(OSError):
                sock.send(data)


def hello_of_tls() -> bytes:
    """Return the first half of a TLS handshake."""
    import ssl

    inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(inside, outside, server_hostname="example")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outside.read()


def garbage() -> Sequence[bytes]:
    """Return beginnings that no protocol has: huge lengths, noise, other languages."""
    rng = random.Random(7)
    huge = [struct.pack(">Q", 1 << 63), struct.pack("<Q", (1 << 63) - 1), b"\xff" * 64]
    multistream = b"\x13/multistream/1.0.0\n"
    return [
        *huge,
        rng.randbytes(100_000),
        multistream + b"\x07/noise\n" + b"\xff\xff" + rng.randbytes(65535),
        multistream + b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"FCs1" + rng.randbytes(200),
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
        b"POST /api/status HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n",
        hello_of_tls()[:100],
    ]


# ---- members gone bad ----------------------------------------------------------------


class Rogue:
    """A member that runs a whole node in this process, and misuses it.

    Args:
        folder: its own, new.
        invite: what let it in.
        name: what it calls itself.
        ahead_s: how far its clock is ahead.
        came_s: by which time it says that it has used the invite; now if None.
    """

    def __init__(
        self,
        folder: Path,
        invite: str,
        name: str = "eve",
        *,
        ahead_s: float = 0.0,
        came_s: float | None = None,
    ) -> None:
        settings = PeerSettings(
            name=name,
            keep_all=False,
            listen=Listen(addresses=("127.0.0.1",)),
            find=Find(nearby=False, map_ports=False),
            page=Page(serve=False),
        )
        key, found, now_s = Key.fresh(), read_invite(invite), time.time()
        proof = open_with(found, key, now_s if came_s is None else came_s)
        self.home = homes._written(folder, key, proof, found.addresses, settings)
        self.node = PeerNode(self.home, settings, lambda _: None)
        self.ahead_s, self._stack = ahead_s, ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.node)
        self.node.member.door.wall = lambda: time.time() + self.ahead_s
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def me(self) -> str:
        return self.home.me

    def meet(self, *nodes: Node, timeout_s: float = 30) -> None:
        """Wait for a channel to each of ``nodes``, on which it wrote its opening."""
        until_s = time.monotonic() + timeout_s
        peers = {node.status()["peer"] for node in nodes}
        while not (peers <= self.node.wires.lines().keys() and self.ready()):
            assert time.monotonic() < until_s, f"{self.me} has no channel"
            time.sleep(0.1)

    def ready(self) -> bool:
        replica = self.node.member.replica
        return bool(self.node.driver.call(lambda _: (replica.ready, ())))

    def channel(self, node: Node) -> Channel:
        """Return the data channel to ``node``."""
        return self.node.wires.lines()[node.status()["peer"]].channel

    def write(self, *entries: tuple[int, bytes]) -> None:
        """Write entries into its log, whatever they say, as its node would."""

        def write(now_s: float):
            effects = self.node.member.replica.write(entries)
            return None, self.node.member.mesh.do("state", now_s, effects)

        self.node.driver.call(write)

    def tip(self) -> Tip:
        """Return where its log ends."""
        logs = self.node.member.replica.logs
        return self.node.driver.call(lambda _: (logs.tip(self.me), ()))

    def segment(self, entry: Entry, tip: Tip | None = None, key=None) -> Segment:
        """Return one entry after ``tip``, signed with ``key``."""
        tip = tip or self.tip()
        key = key or self.home.key
        after = tip.plus(entry)
        signature = sign_head(key, self.home.network, self.me, after)
        return Segment(
            self.me, tip.length, tip.link[:16], (entry,), Branch((), signature)
        )

    def openings(self, count: int) -> Sequence[Segment]:
        """Return the beginnings of so many more logs of its own."""
        network, found = self.home.network, []
        for _ in range(count):
            key = Key.fresh()
            proof = open_subkey(self.home.proof, self.home.key, key, time.time())
            entry = Entry(Kind.OPENING, proof)
            tip = Tip(0, first_link(network, key.peer))
            head = sign_head(key, network, key.peer, tip.plus(entry))
            rest = Branch((), head)
            found.append(Segment(key.peer, 0, tip.link[:16], (entry,), rest))
        return found

    def news(self, *segments: Segment, left: Sequence[Item] = ()) -> bytes:
        """Return news of the state as they are told."""
        return encode(News(b"\0" * 32, (), segments, left))

    def tell(self, node: Node, topic: str, body: bytes) -> None:
        """Say ``body`` on the data channel."""
        self.channel(node).tell(topic, body)

    def ask(self, node: Node, topic: str, body: bytes, timeout_s: float = 10) -> bytes:
        """Return the answer of ``node``; raises what it refuses with."""
        return self.channel(node).ask(topic, body, timeout_s).result(timeout_s + 1)


def refused(future: "Future[bytes]", timeout_s: float = 20) -> str:
    """Return why a question was refused; fail if it was answered."""
    try:
        answer = future.result(timeout_s)
    except FedError as error:
        return str(error)
    raise AssertionError(f"answered with {answer[:40]!r}")
