"""Hubs and peers on a lab's machines, and what they say."""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from sims.natlab.lab import Lab, Place

PORT = 4001
Said = dict[str, Any]


class Actor:
    """A process that says JSON lines; they are kept in the order they came."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name, self.process = name, process
        self.said: list[Said] = []
        self.fresh: queue.Queue[Said] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = json.loads(line)
            self.said.append(words)
            self.fresh.put(words)

    def last(self, event: str, peer: str) -> Said | None:
        """Return the last of what was said of ``peer`` under the name ``event``."""
        found = [w for w in self.said if (w["event"], w.get("peer")) == (event, peer)]
        return found[-1] if found else None

    def wait(self, fits: Callable[[Said], bool], timeout_s: float) -> Said:
        """Return the next saying that ``fits``."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            try:
                words = self.fresh.get(timeout=max(0.01, until_s - time.monotonic()))
            except queue.Empty:
                break
            if fits(words):
                return words
        raise TimeoutError(f"{self.name} said only {self.said[-8:]}")


def hub(lab: Lab, name: str) -> tuple[Place, Actor]:
    """Return a public host, and the hub that runs there and is ready."""
    place = lab.host(name)
    actor = Actor(name, lab.python(place, "tests.nat.hub", place.ip, place.ip))
    actor.wait(lambda words: words.get("event") == "ready", 20)
    return place, actor


def peer(
    lab: Lab, place: Place, hubs: Iterable[Place], wanted: Iterable[str] = ()
) -> Actor:
    """Return a peer that runs at ``place`` and wants ``wanted``."""
    ips = ",".join(h.ip for h in hubs)
    names = ",".join(wanted)
    process = lab.python(place, "tests.nat.peer", place.name, str(PORT), ips, names)
    return Actor(place.name, process)


def all_opened(
    pairs: Iterable[tuple[Actor, Actor]], timeout_s: float
) -> list[tuple[str, str, Said | None]]:
    """Return how each pair was opened, as its first side says; None if it was not."""
    waited, until_s = list(pairs), time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        done = [_both(a, b) for a, b in waited]
        if all(done):
            break
        time.sleep(0.1)
    return [(a.name, b.name, a.last("opened", b.name)) for a, b in waited]


def _both(a: Actor, b: Actor) -> bool:
    return bool(a.last("opened", b.name) and b.last("opened", a.name))
