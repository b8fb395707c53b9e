"""A peer of the lab: the real ``Reach`` and real sockets; hubs carry its signalling.

``python -m tests.nat.peer NAME PORT HUB_IP,HUB_IP PEER,PEER``. It says one JSON object
a line: where it is, and every way to a peer that opens or closes. A data channel here
is two names and a check of them; TLS is the business of ``p2p.channel``.
"""

import base64
import json
import queue
import random
import socket
import sys
import threading
import time
from contextlib import suppress

from fedcore.errors import FedError, ProtocolError
from p2p.machine import (
    Answer,
    Answered,
    Ask,
    Asked,
    Down,
    Failed,
    Refuse,
    Wake,
    Woken,
)
from p2p.nat.addresses import Address
from p2p.nat.effects import (
    Book,
    Closed,
    Dial,
    Dialled,
    NatEffect,
    NatEvent,
    NotDialled,
    NotOpened,
    Opened,
    Punch,
    Relays,
)
from p2p.nat.listener import Listener
from p2p.nat.punch import open_socket
from p2p.nat.reach import Reach
from p2p.nat.whereabouts import whereabouts
from p2p.nat.whoami import Observer
from tests.nat.hub import SIGNALS, WHOAMI

RELOOK_S = 1.0


class Peer:
    def __init__(self, name: str, port: str, hubs: str, peers: str) -> None:
        self.me, self.hubs = name, hubs.split(",")
        self.rng = random.SystemRandom()
        self.reach = Reach.of(name, b"certificate of " + name.encode(), self.rng)
        self.events: queue.Queue[NatEvent] = queue.Queue()
        self.wires: dict[str, socket.socket] = {}
        self.asked: dict[int, tuple[str, str]] = {}  # our ticket: wire, whose question
        self.waits: dict[int, tuple[str, float]] = {}  # our questions: peer, until
        self.via: dict[str, str] = {}  # peer: wire
        self.channels: dict[str, socket.socket] = {}
        self.listener = Listener(int(port))
        self.observer = Observer(int(port), timeout_s=2.5)
        for peer in filter(None, peers.split(",")):
            circuits = tuple(f"/{hub}/p2p-circuit/p2p/{peer}" for hub in self.hubs)
            self.events.put(Book(peer, circuits))

    def run(self) -> None:
        for hub in self.hubs:
            threading.Thread(target=self.keep_wire, args=[hub], daemon=True).start()
        threading.Thread(target=self.keep_looking, daemon=True).start()
        alarm_s = float("inf")
        with self.listener:
            while True:
                now_s = time.monotonic()
                with suppress(queue.Empty):
                    event = self.events.get(timeout=max(0.0, min(0.2, alarm_s - now_s)))
                    alarm_s = self.feed(event, alarm_s)
                if time.monotonic() >= alarm_s:
                    alarm_s = self.feed(Woken(), float("inf"))
                self.expire(time.monotonic())

    def feed(self, event: NatEvent, alarm_s: float) -> float:
        try:
            effects = self.reach.step(time.monotonic(), event)
        except ProtocolError as error:
            say(event="fault", words=str(error))
            if isinstance(event, Asked):
                self.reply(event.ticket, "refuse", str(error).encode())
            return alarm_s
        for effect in effects:
            if isinstance(effect, Wake):
                alarm_s = effect.at_s
            else:
                self.carry_out(effect)
        return alarm_s

    def carry_out(self, effect: NatEffect) -> None:
        match effect:
            case Dial():
                threading.Thread(target=self.dial, args=[effect], daemon=True).start()
            case Punch():
                threading.Thread(target=self.open, args=[effect], daemon=True).start()
            case Ask(peer, topic, body, ticket, timeout_s):
                self.waits[ticket] = (peer, time.monotonic() + timeout_s)
                wire = self.via.get(peer, peer)
                self.send(wire, "ask", peer, body, topic=topic, ticket=ticket)
            case Answer(ticket, body):
                self.reply(ticket, "answer", body)
            case Refuse(ticket, why):
                self.reply(ticket, "refuse", why.encode())
            case _:
                pass

    # signalling

    def keep_wire(self, hub: str) -> None:
        while True:
            with suppress(OSError), socket.create_connection((hub, SIGNALS), 2) as wire:
                wire.settimeout(None)
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000)
                wire.sendall(json.dumps({"name": self.me}).encode() + b"\n")
                self.wires[hub] = wire
                self.meet_relays()
                for line in wire.makefile("rb"):
                    self.receive(hub, json.loads(line))
            self.wires.pop(hub, None)
            self.meet_relays()
            for peer in [p for p, via in self.via.items() if via == hub]:
                del self.via[peer]
                self.events.put(Down(peer, "the relay is gone"))
            time.sleep(0.3)

    def meet_relays(self) -> None:
        self.via.update({hub: hub for hub in self.wires})
        self.events.put(Relays(tuple(self.wires)))

    def send(self, hub: str, kind: str, to: str, body: bytes, **more: object) -> None:
        text = base64.b64encode(body).decode()
        message = {"kind": kind, "to": to, "body": text, **more}
        with suppress(OSError, KeyError):
            self.wires[hub].sendall(json.dumps(message).encode() + b"\n")

    def receive(self, hub: str, message: dict[str, str]) -> None:
        peer, ticket = message["from"], int(message["ticket"])
        body = base64.b64decode(message["body"])
        match message["kind"]:
            case "ask":
                own = self.rng.getrandbits(60)
                self.asked[own] = (hub, f"{peer} {ticket}")
                self.via.setdefault(peer, hub)
                self.events.put(Asked(peer, message["topic"], body, own))
            case "dialled" | "not-dialled":
                self.waits.pop(ticket, None)
                if message["kind"] == "dialled":
                    self.via[peer] = hub
                    self.events.put(Dialled(peer, ticket, hub))
                else:
                    self.events.put(NotDialled(peer, ticket, "not at the hub"))
            case kind if self.waits.pop(ticket, None):
                if kind == "answer":
                    self.events.put(Answered(peer, ticket, body))
                else:
                    self.events.put(Failed(peer, ticket, False, body.decode()))

    def reply(self, ticket: int, kind: str, body: bytes) -> None:
        hub, whose = self.asked.pop(ticket)
        peer, number = whose.split()
        self.send(hub, kind, peer, body, ticket=int(number))

    def expire(self, now_s: float) -> None:
        for ticket, (peer, until_s) in list(self.waits.items()):
            if now_s > until_s and self.waits.pop(ticket, None):
                self.events.put(Failed(peer, ticket, True, "no answer"))

    # ways

    def dial(self, wish: Dial) -> None:
        hubs = [a.split("/")[1] for a in wish.addresses]
        for hub in (h for h in hubs if h in self.wires):
            self.send(hub, "dial", wish.peer, b"", ticket=wish.ticket)
            return
        self.events.put(NotDialled(wish.peer, wish.ticket, "no relay is reachable"))

    def open(self, punch: Punch) -> None:
        start_s = time.monotonic()
        try:
            opening = open_socket(punch, self.listener, self.rng)
            sock = opening.sock
            sock.settimeout(5)
            greet(sock, self.me, punch.peer)
        except (FedError, OSError) as error:
            self.events.put(NotOpened(punch.peer, punch.ticket, str(error)))
            say(event="not-opened", peer=punch.peer, words=str(error))
            return
        self.replace(punch.peer, sock)
        path, relay = opening.path, opening.relay
        self.events.put(Opened(punch.peer, punch.ticket, path, relay))
        took_s = round(time.monotonic() - start_s, 3)
        say(event="opened", peer=punch.peer, path=path, took_s=took_s, at_s=time.time())
        watcher = threading.Thread(target=self.watch, args=[punch.peer, sock])
        watcher.daemon = True
        watcher.start()

    def replace(self, peer: str, sock: socket.socket) -> None:
        before, self.channels[peer] = self.channels.get(peer), sock
        if before is not None:
            before.close()

    def watch(self, peer: str, sock: socket.socket) -> None:
        """Send a byte now and then, as heartbeats do; notice silence."""
        sock.settimeout(2.0)
        with suppress(OSError):
            while True:
                sock.sendall(b"+")
                if not sock.recv(64):
                    break
                time.sleep(0.25)
        if self.channels.get(peer) is sock:
            del self.channels[peer]
            sock.close()
            self.events.put(Closed(peer, "the channel broke"))
            say(event="closed", peer=peer)

    def keep_looking(self) -> None:
        before = None
        services = [Address(hub, WHOAMI) for hub in self.hubs]
        while True:
            here = whereabouts(self.observer, services)
            if before is not None and here.interfaces != before.interfaces:
                self.leave()
                here = whereabouts(self.observer, services)
            if here != before:
                self.events.put(here)
                candidates = [str(c.address) for c in here.candidates]
                say(event="here", nat=here.nat.name, candidates=candidates)
            before = here
            time.sleep(RELOOK_S)

    def leave(self) -> None:
        """Drop all that began at an address that may be gone."""
        self.observer.close()
        for sock in [*self.wires.values(), *self.channels.values()]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def greet(sock: socket.socket, me: str, peer: str) -> None:
    """Say who we are, both at once; make sure it is who we wanted."""
    sock.sendall(me.ljust(32).encode())
    said = b""
    while len(said) < 32:
        part = sock.recv(32 - len(said))
        if not part:
            raise ProtocolError("hung up at the greeting")
        said += part
    if said.decode().strip() != peer:
        raise ProtocolError(f"{said!r} is not {peer}")


def say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Peer(*sys.argv[1:]).run()
