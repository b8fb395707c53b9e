"""Finds out where this machine is: its addresses, and what the world sees of them."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from p2p.nat.addresses import Address
from p2p.nat.candidates import interfaces
from p2p.nat.effects import Here
from p2p.nat.whereabouts import whereabouts
from p2p.nat.whoami import Observer

EVERY_S = 20.0
GLANCE_S = 1.0  # between two looks at the machine's own addresses
log = logging.getLogger(__name__)


class Scout:
    """Looks now and then, in a thread of its own, and tells what has changed.

    Args:
        port: the data port.
        services: whoami services to ask, as they are known at the moment.
        mapped: what a router forwards to the data port, at the moment.
        tell: told where we are, first and after each change.
        only: the only addresses of this machine to offer; all if empty.
        moved: called when this machine's addresses have changed, with those it has.
        patience_s: for so long nothing is told while no service has seen us: a first
            attempt at a peer with half of our addresses is likely to fail.
    """

    def __init__(
        self,
        port: int,
        services: Callable[[], Sequence[Address]],
        mapped: Callable[[], Sequence[Address]],
        tell: Callable[[Here], object],
        only: Collection[str] = (),
        moved: Callable[[Collection[str]], object] = lambda _: None,
        patience_s: float = 0.0,
    ) -> None:
        self._services, self._mapped, self._tell = services, mapped, tell
        self._only, self._observer = frozenset(only), Observer(port)
        self._moved = moved
        self._here: Here | None = None
        self._patient_until_s = time.monotonic() + patience_s
        self._hurry, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="scout", daemon=True)

    def start(self) -> "Scout":
        """Begin."""
        self._thread.start()
        return self

    def hurry(self) -> None:
        """Look again at once, such as when another service is known."""
        self._hurry.set()

    def close(self) -> None:
        """End; the mappings that routers made for us are let go."""
        self._stop.set()
        self._hurry.set()
        self._thread.join()
        self._observer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            here = self._look()
            left_s = self._patient_until_s - time.monotonic()
            seen = any(c.kind in ("observed", "public") for c in here.candidates)
            if left_s > 0 and not seen:
                self._rest(left_s, here)
            else:
                self._news(here)
                self._rest(EVERY_S, here)

    def _look(self) -> Here:
        services, mapped = self._services(), self._mapped()
        return whereabouts(self._observer, services, mapped, self._only)

    def _news(self, here: Here) -> None:
        if here != self._here:
            self._here = here
            self._tell(here)

    def _rest(self, wait_s: float, here: Here) -> None:
        """Wait for ``wait_s``, for a hurry, or until the machine's addresses change."""
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s:
            if self._hurry.wait(min(GLANCE_S, wait_s)):
                break
            found = interfaces(self._only)
            if found != here.interfaces:
                log.info("this machine's addresses have changed")
                self._observer.close()  # what routers knew of us is worth nothing now
                self._moved({str(i.ip) for i in found})
                break
        self._hurry.clear()
