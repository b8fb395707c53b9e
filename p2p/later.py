"""Things to do after a while, in one thread."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable

Action = Callable[[], object]


class Later:
    """Runs actions when their time has come. They must be quick and raise nothing."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="later", daemon=True)
        self._thread.start()

    def after(self, wait_s: float, action: Action) -> None:
        """Run ``action`` in ``wait_s`` seconds, unless ``close`` comes first."""
        with self._changed:
            due_s = time.monotonic() + wait_s
            heapq.heappush(self._due, (due_s, next(self._numbers), action))
            self._changed.notify()

    def close(self) -> None:
        """Forget what is left."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            action()

    def _next(self) -> Action | None:
        with self._changed:
            while not self._ended:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait_s)
        return None
