"""What a node's figures were in the last minutes, for the charts of its page."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

EVERY_S = 2.0
MOST = 300  # samples: ten minutes


@dataclass
class History:
    """Takes figures from any thread, and keeps a few hundred of them."""

    _rows: dict[str, deque[float]] = field(default_factory=dict)
    _next_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, now_s: float, figures: Mapping[str, float]) -> None:
        """Keep ``figures``, the same at every call, if it is time for them.

        Args:
            now_s: of a clock that never goes back, in seconds.
            figures: by name.
        """
        with self._lock:
            if now_s < self._next_s:
                return
            self._next_s = now_s + EVERY_S
            for name, value in figures.items():
                self._rows.setdefault(name, deque(maxlen=MOST)).append(value)

    def plain(self) -> Mapping[str, float | Sequence[float]]:
        """Return it for JSON: seconds between two samples, and the samples by name."""
        with self._lock:
            rows = {name: list(row) for name, row in self._rows.items()}
        return {"every_s": EVERY_S, **rows}
