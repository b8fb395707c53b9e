"""The life of a node: opens sockets and threads, and closes them in the end."""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Self

from clients.peer.actions import Actions
from clients.peer.control import Control
from clients.peer.ground import ground_in
from clients.peer.home import (
    REST,
    Home,
    give_up,
    is_fresh,
    keep_ports,
    no_longer_fresh,
)
from clients.peer.member import Member
from clients.peer.notes import Notes
from clients.peer.page import Page
from clients.peer.ports import any_hosts, free_port, port_in
from clients.peer.report import Report
from clients.peer.runs import Runs
from clients.peer.serving import RelayService, serve_as_relay
from clients.peer.settings import PeerSettings
from clients.peer.tunnels import Tunnels
from clients.peer.ways import outside, worth_telling
from fedcore.errors import ConfigError, FedError
from fedcore.names import PeerId
from p2p.channel.caps import Caps
from p2p.circuit import is_circuit
from p2p.driver import Driver
from p2p.libp2p.config import Libp2pConfig, Part
from p2p.libp2p.nearby import Nearby
from p2p.libp2p.parts import Reachable, Relayed
from p2p.libp2p.thread import MeshThread
from p2p.machine import Note
from p2p.mapping.port import MappedPort, ways_here
from p2p.members.card import About
from p2p.nat.listener import Listener
from p2p.scout import Scout
from p2p.wires import NodeWires

LOOK_S = 1.0
RELAY_S = 8.0  # how long a relay may take to tell us our own address
MOST_ADDRESSES = 8
log = logging.getLogger(__name__)


@dataclass
class PeerNode:
    """A running node. A context manager.

    Attributes:
        home: the peer's folder.
        settings: its owner's.
        say: prints a line for people.
    """

    home: Home
    settings: PeerSettings
    say: Callable[[str], None]
    notes: Notes = field(default_factory=Notes)
    page: Page | None = None
    _open: ExitStack = field(default_factory=ExitStack)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._open.close()

    def _start(self) -> None:
        home, settings, rng = self.home, self.settings, random.SystemRandom()
        self.caps = _caps(settings)
        listen = settings.listen
        self.listener = self._open.enter_context(
            Listener(listen.data_port, listen.addresses)
        )
        self.relay = self._relay()
        self.member = Member(
            home,
            settings,
            version("fedcore"),
            ground_in(home.folder, fresh=is_fresh(home)),
            desk=self.relay.desk if self.relay else None,
            services=self.relay.services if self.relay else None,
        )
        self._open.callback(self.member.close)
        self._check_stays()
        no_longer_fresh(home)  # the first entry is on disk
        self.relayed = Relayed((), rng)
        self.reachable = Reachable(rng)
        parts: list[Part] = [self.relayed, self.reachable]
        parts += [self.relay.part] if self.relay else []
        self.mesh = MeshThread(Libp2pConfig(home.key, self._listen(), parts))
        self._open.callback(self.mesh.close)
        self.mesh.start()
        self.wires = NodeWires(
            self.mesh, self.listener, self.member.credentials, self.caps, rng
        )
        self._open.callback(self.wires.close)
        self.driver = Driver(self.member.mesh, self.wires, self.notes)
        self._open.callback(self.driver.close)
        self.driver.start()
        self.wires.attach(self.driver)
        self._look_around(rng)
        self._serve_people()
        self._keep_ports()

    def _check_stays(self) -> None:
        """Raise ConfigError if this peer has left, and see to it that it has."""
        if self.member.standing() == "left":
            give_up(self.home.folder)
            raise ConfigError(f"{self.home.folder} {REST}")

    def _relay(self) -> RelayService | None:
        if not self.settings.relay.serve:
            return None
        only = self.settings.listen.addresses
        return serve_as_relay(self.settings.relay, only, self._open)

    def _listen(self) -> list[str]:
        listen = self.settings.listen
        hosts = listen.addresses or any_hosts()
        port = listen.control_port or free_port(hosts)
        return [f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}" for host in hosts]

    def _look_around(self, rng: random.Random) -> None:
        """Begin to find out where we are, and who is near."""
        settings, home, port = self.settings, self.home, self.listener.port
        self.mapped: MappedPort | None = None
        if settings.find.map_ports and not settings.listen.addresses:
            self.mapped = MappedPort(port, ways_here(), rng)
            self._open.callback(self.mapped.close)
            self.mapped.start()
        self.scout = Scout(
            port,
            lambda: self.member.mesh.guests.services(),
            lambda: outside(self.mapped, port, self.mesh.addresses()),
            self.driver.post,
            settings.listen.addresses,
            self._moved,
            RELAY_S if settings.find.relays or is_circuit(str(home.ways)) else 0,
        )
        self.nearby: Nearby | None = None
        self._open.callback(self.scout.close)
        self.member.mesh.guests.changed = self.scout.hurry
        self.reachable.changed = self.scout.hurry
        self.scout.start()
        if settings.find.nearby:
            self._find_nearby(rng)
        minder = threading.Thread(target=self._mind, name="minder", daemon=True)
        minder.start()

    def _moved(self, hosts: Collection[str]) -> None:
        """Begin anew where the machine is now."""
        self.note("moved", f"this machine is now at {', '.join(sorted(hosts)) or '?'}")
        self.wires.move(hosts)
        self.relayed.hurry()
        self.reachable.hurry()
        if self.relay is not None:
            self.relay.look()
        if self.nearby is not None:
            self.nearby.hurry()
        if self.mapped is not None:
            self.mapped.hurry()

    def _find_nearby(self, rng: random.Random) -> None:
        def found(peer: PeerId, addresses: Sequence[str]) -> None:
            self.member.met_nearby(peer, addresses)

        only = self.settings.listen.addresses or None
        self.nearby = Nearby(
            self.home.network, self.home.me, self.mesh.addresses, found, rng, only
        )
        self._open.callback(self.nearby.close)
        self.nearby.start()

    def _mind(self) -> None:
        """Tell the others what changed about us, and use the relays that are known."""
        used: list[str] = []
        while not self._stop.is_set():
            try:
                relays = self.driver.call(partial(self._turn, self._about()))
            except FedError as error:
                log.info("not told to the others: %s", error)
                relays = used
            if relays != used:
                used = relays
                self.relayed.use(relays)
            self._stop.wait(LOOK_S)

    def _turn(self, about: About, now_s: float) -> tuple[list[str], tuple[()]]:
        """Say ``about``; return the addresses of relays. In the machine's thread."""
        self.member.say(about)
        self.mesh.trust({*self.member.mesh.inside(), *self.member.mesh.relays})
        return self.member.relay_places(), ()

    def _about(self) -> About:
        mine = tuple(worth_telling(self.mesh.addresses(), MOST_ADDRESSES))
        about = About(addresses=mine, data_port=self.listener.port)
        if self.relay is None:
            return about
        return replace(about, relays=True, splice_port=self.relay.splice_port)

    def _keep_ports(self) -> None:
        mine = [a for a in self.mesh.addresses() if not is_circuit(a)]
        ports = {"data": self.listener.port, "control": port_in(mine)}
        if self.relay is not None:
            ports["relay"] = self.relay.splice_port
        if self.page is not None:
            ports["page"] = self.page.port
        keep_ports(self.home, ports)

    def _serve_people(self) -> None:
        self.runs, self.tunnels = Runs(self), Tunnels(self)
        self.report = Report(self)
        control = Control(self.home.folder, Actions(self).do)
        self._open.callback(control.close)
        control.start()
        if self.settings.page.serve:
            self.page = Page(
                self.home.folder, self.settings.page.port, self.report.page
            )
            self._open.callback(self.page.close)
            self.page.start()
        opening = self.home.opening
        name = self.settings.name
        self.say(f"{name} is up in {opening.founding.name} as {opening.role}")
        for address in self.mesh.addresses() or ["no address yet: there is no network"]:
            self.say(f"  reach it at {address}")
        if self.page is not None:
            self.say(f"  look at it at {self.page.address}")

    def status(self) -> Mapping[str, Any]:
        """Return what the node is doing, for programs; see ``Report``."""
        return self.report.status()

    def wait(self, stop: threading.Event) -> None:
        """Return when ``stop`` is set or the node was told to end.

        Raises:
            Exception: what made the node fail.
        """
        said = ""
        while self.goes_on(stop):
            try:
                state, why = self.report.state()
            except FedError as error:  # busy, which is no reason to end
                log.info("what the node does is not known: %s", error)
                continue
            if (now := f"{state}: {why}") != said:
                said = now
                self.say(f"{time.strftime('%H:%M:%S')} {now}")
        if self.driver.failure is not None:
            raise self.driver.failure

    def goes_on(self, stop: threading.Event) -> bool:
        """Wait a moment; return whether the node is still to run."""
        told = stop.wait(0.5) or self._stop.is_set()
        return not (told or self.driver.ended.is_set())

    def end(self) -> None:
        """Let ``wait`` return."""
        self._stop.set()

    def page_address(self) -> str:
        """Return where the page is; empty if there is none."""
        return self.page.address if self.page else ""

    def note(self, kind: str, words: str) -> None:
        """Keep a note about ourselves."""
        self.notes(Note(kind, words))


def _caps(settings: PeerSettings) -> Caps:
    up, down = settings.limit.up_mbit, settings.limit.down_mbit
    return Caps(up * 125_000 or None, down * 125_000 or None)


__all__ = ["PeerNode", "RelayService"]
