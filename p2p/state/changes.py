"""What has changed since we were level with somebody, known by the root we shared.

Two replicas with equal roots hold the same. So a root that both remember says, in 32
bytes, what each knew then; only what has changed since needs to be told.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice

from fedcore.names import PeerId
from p2p.state.encoding import Item

CHANGES = 1 << 14  # remembered; whoever is further behind tells all
ROOTS = 1 << 8


@dataclass
class Changes:
    """The newest changes, in order, and roots that were ours in between.

    Attributes:
        count: of all changes so far.
    """

    count: int = 0
    _newest: deque[tuple[PeerId, Item | None]] = field(
        default_factory=lambda: deque(maxlen=CHANGES)
    )
    _roots: OrderedDict[bytes, int] = field(default_factory=OrderedDict)

    def note(self, writer: PeerId, before: Item | None) -> None:
        """Remember that ``writer`` has changed, and what it was."""
        self._newest.append((writer, before))
        self.count += 1

    def pin(self, root: bytes) -> None:
        """Remember that ``root`` is ours now."""
        self._roots[root] = self.count
        self._roots.move_to_end(root)
        if len(self._roots) > ROOTS:
            self._roots.popitem(last=False)

    def knows(self, root: bytes) -> bool:
        """Return whether ``root`` was ours, and all changes since are remembered."""
        return root in self._roots and self.count - self._roots[root] <= len(
            self._newest
        )

    def since(self, root: bytes) -> dict[PeerId, Item | None] | None:
        """Return what each writer that changed since ``root`` was then.

        None if ``root`` never was ours, or too long ago.
        """
        if not self.knows(root):
            return None
        age = self.count - self._roots[root]
        before: dict[PeerId, Item | None] = {}
        for writer, item in islice(self._newest, len(self._newest) - age, None):
            before.setdefault(writer, item)
        return before
