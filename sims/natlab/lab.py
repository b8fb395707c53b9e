"""A small internet of network namespaces: public hosts, and homes behind routers.

``with Lab() as lab:`` makes one and always removes it. Needs root, iproute2 and
nftables. All addresses exist only inside; any number of labs run side by side.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sims.natlab.routers import CLOUD, CUTS, FIREWALL6, Kind, rules
from sims.natlab.spaces import MARK, forward, inside, ip, nft, run, settled, sweep
from sims.natlab.switch import Switch

ROOT = Path(__file__).parents[2]
NET4, NET6 = "45.33.1", "2a0f:1:0:1"
_numbers = itertools.count(1)


@dataclass
class Place:
    """A machine of the lab.

    Attributes:
        name: what the lab calls it.
        space: its network namespace.
        ip: its IPv4 address.
        port: the bridge's interface that leads to it, or to its router.
        kind: the kind of NAT it is behind.
        routers: from its own to the outermost.
        wan: the address under which the internet knows it.
    """

    name: str
    space: str
    ip: str
    port: str
    kind: Kind = "open"
    routers: list[str] = field(default_factory=list)
    wan: str = ""


class Lab:
    """Namespaces, links, routers and processes, all removed at the end.

    Args:
        delay_s: one-way delay of every public link, in seconds.
        loss: probability that a frame is lost.
        ipv6: whether homes have public IPv6 addresses behind stateful firewalls.
    """

    def __init__(
        self, *, delay_s: float = 0.0, loss: float = 0.0, ipv6: bool = False
    ) -> None:
        self.ipv6 = ipv6
        self.prefix = f"{MARK}{os.getpid()}-{next(_numbers)}-"
        self.places: dict[str, Place] = {}
        self.spaces: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.switch = Switch(delay_s, loss) if delay_s or loss else None
        self._public = itertools.count(10)
        self._homes = itertools.count(11)

    def __enter__(self) -> "Lab":
        sweep()
        try:
            self.net = self._space("net")
            ip(self.net, "link add br0 type bridge", "link set br0 up")
            nft(self.net, CUTS)
            if self.ipv6:
                ip(self.net, f"addr add {NET6}::1/64 dev br0 nodad")
                forward(self.net, 6)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        if self.switch is not None:
            self.switch.close()
        if self.spaces:
            lines = "".join(f"netns del {space}\n" for space in self.spaces)
            command = ["ip", "-force", "-batch", "-"]
            subprocess.run(command, input=lines, text=True, capture_output=True)
            self.spaces.clear()

    def host(self, name: str) -> Place:
        """Return a new machine with a public address."""
        space, number = self._space(name), next(self._public)
        port = self._plug(space, number)
        place = Place(name, space, f"{NET4}.{number}", port, wan=f"{NET4}.{number}")
        self.places[name] = place
        return place

    def home(self, name: str, kind: Kind, beside: Place | None = None) -> Place:
        """Return a new machine at home.

        Args:
            name: what to call it.
            kind: the NAT of its router; "open" is a machine without one.
            beside: a machine in the same home, whose router it shares.
        """
        if kind == "open":
            return self.host(name)
        if beside is not None:
            return self._beside(name, beside)
        number, home = next(self._public), next(self._homes)
        outer = self._space(f"{name}-router")
        port = self._plug(outer, number)
        wan, lan = f"{NET4}.{number}", f"192.168.{home}"
        routers = [outer]
        if kind == "double":
            routers.insert(0, self._space(f"{name}-inner"))
            self._link(outer, routers[0], f"10.77.{home}", "wan")
            nft(outer, rules("port-restricted", wan, ""))
        space = self._space(name)
        self._link(routers[0], space, lan, "eth0")
        inner = "port-restricted" if kind == "double" else kind
        nft(routers[0], rules(inner, wan, f"{lan}.2"))
        place = Place(name, space, f"{lan}.2", port, kind, routers, wan)
        self.places[name] = place
        if self.ipv6 and kind != "double":
            self._route6(place, number, home)
        return place

    def _beside(self, name: str, first: Place) -> Place:
        """Put a switch where there was a cable, and another machine on it."""
        router, space = first.routers[0], self._space(name)
        lan, last = first.ip.rsplit(".", 1)
        others = [p for p in self.places.values() if p.routers == first.routers]
        number = int(last) + len(others)
        if len(others) == 1:
            ip(
                router,
                "link add lans type bridge",
                f"addr del {lan}.1/24 dev lan",
                "link set lan master lans",
                f"addr add {lan}.1/24 dev lans",
                "link set lans up",
            )
        end = f"lan{number}"
        ip("", f"link add {end} netns {router} type veth peer name eth0 netns {space}")
        ip(router, f"link set {end} master lans", f"link set {end} up")
        ip(
            space,
            f"addr add {lan}.{number}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {lan}.1",
        )
        place = replace(first, name=name, space=space, ip=f"{lan}.{number}")
        self.places[name] = place
        return place

    def move(self, place: Place, host: int, wan: int) -> None:
        """Change both addresses of a home, as when a laptop goes elsewhere."""
        lan = place.ip.rsplit(".", 1)[0]
        router, new = place.routers[0], f"{lan}.{host}"
        ip(
            place.space,
            f"addr del {place.ip}/24 dev eth0",
            f"addr add {new}/24 dev eth0",
            f"route replace default via {lan}.1",
        )
        ip(
            router,
            f"addr del {place.wan}/24 dev wan",
            f"addr add {NET4}.{wan}/24 dev wan",
        )
        place.ip, place.wan = new, f"{NET4}.{wan}"
        nft(router, "flush ruleset\n" + rules(place.kind, place.wan, new))

    def reload(self, place: Place, kind: Kind) -> None:
        """Give a home with one router another kind of NAT; mappings are forgotten."""
        place.kind = kind
        nft(place.routers[0], "flush ruleset\n" + rules(kind, place.wan, place.ip))

    def expose(self, place: Place) -> None:
        """Pass on all that reaches a home with one router, as clouds do."""
        nft(place.routers[0], CLOUD.format(host=place.ip))

    def cut(self, a: Place, b: Place) -> None:
        """Lose silently all that ``a`` and ``b`` send to each other."""
        self._cuts("add", a, b)

    def join(self, a: Place, b: Place) -> None:
        """Undo ``cut``."""
        self._cuts("delete", a, b)

    def partition(self, *groups: Sequence[Place]) -> None:
        """Cut every pair that is not within one of ``groups``."""
        for some, others in itertools.combinations(groups, 2):
            for a, b in itertools.product(some, others):
                self.cut(a, b)

    def heal(self) -> None:
        """Undo all cuts."""
        nft(self.net, "flush set bridge lab cuts")

    def _cuts(self, verb: str, a: Place, b: Place) -> None:
        pairs = f'"{a.port}" . "{b.port}", "{b.port}" . "{a.port}"'
        nft(self.net, f"{verb} element bridge lab cuts {{ {pairs} }}")

    def unplug(self, place: Place) -> None:
        """Pull the cable of a machine at home, as before its network is there."""
        ip(place.space, "link set eth0 down")

    def plug(self, place: Place) -> None:
        """Undo ``unplug``."""
        gateway = place.ip.rpartition(".")[0] + ".1"
        ip(place.space, "link set eth0 up", f"route add default via {gateway}")

    def inside(self, place: Place, *command: str) -> list[str]:
        """Return the command that runs ``command`` at ``place``; wait for its links."""
        settled(place.space)
        return inside(place.space, command)

    def start(self, place: Place, *command: str) -> subprocess.Popen[str]:
        """Start ``command`` at ``place``; lines in and out are text."""
        process = subprocess.Popen(
            self.inside(place, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.processes.append(process)
        return process

    def python(
        self, place: Place, module: str, *arguments: str
    ) -> subprocess.Popen[str]:
        """Start a module of the project at ``place``."""
        return self.start(place, sys.executable, "-m", module, *arguments)

    def run(self, place: Place, *command: str, timeout_s: float = 30) -> str:
        """Run ``command`` at ``place``; return what it says."""
        return run(self.inside(place, *command), timeout_s=timeout_s)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a process at once, as a power cut would."""
        process.kill()
        process.wait()

    def _space(self, name: str) -> str:
        space = self.prefix + name
        ip("", f"netns add {space}")
        self.spaces.append(space)
        ip(space, "link set lo up")
        return space

    def _plug(self, space: str, number: int) -> str:
        """Connect a namespace to the internet; return the bridge's interface."""
        port = f"p{number}"
        if self.switch is not None:
            self.switch.link(space, "wan", self.net, port)
        else:
            veth = f"type veth peer name {port} netns {self.net}"
            ip("", f"link add wan netns {space} {veth}")
        ip(self.net, f"link set {port} master br0", f"link set {port} up")
        ip(
            space,
            f"addr add {NET4}.{number}/24 dev wan",
            f"addr add {NET6}::{number}/64 dev wan nodad",
            "link set wan up",
        )
        return port

    def _link(self, router: str, space: str, net: str, name: str) -> None:
        """Connect ``space`` to the inside of ``router``."""
        ip("", f"link add lan netns {router} type veth peer name {name} netns {space}")
        ip(router, f"addr add {net}.1/24 dev lan", "link set lan up")
        ip(
            space,
            f"addr add {net}.2/24 dev {name}",
            f"link set {name} up",
            f"route add default via {net}.1",
        )
        forward(router, 4)

    def _route6(self, place: Place, number: int, home: int) -> None:
        """Give a home a public network, behind a firewall that keeps state."""
        outer, net = place.routers[-1], f"2a0f:1:0:{home + 0x100:x}"
        forward(outer, 6)
        ip(self.net, f"route add {net}::/64 via {NET6}::{number}")
        ip(outer, f"addr add {net}::1/64 dev lan nodad")
        ip(outer, f"route add default via {NET6}::1")
        ip(place.space, f"addr add {net}::2/64 dev eth0 nodad")
        ip(place.space, f"route add default via {net}::1")
        nft(outer, FIREWALL6)
