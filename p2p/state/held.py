"""What is known of a writer, who writes a log of ours, what may be added to one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.identity.keys import Key
from p2p.identity.openings import Opening
from p2p.state.chain import Tip, sign_head
from p2p.state.segments import Branch, Fork
from p2p.state.store import Row

ENTRY_BYTES = 96  # that an entry takes on disk besides its body, about


@dataclass(slots=True)
class Log:
    """What is known of one writer.

    Attributes:
        opening: what let it in; None while the log is empty and not frozen.
        heads: signatures by position; ``stops`` are these positions, ascending.
        loose: a head that is not at a mark, and goes when a newer one comes.
        fork: why the log is frozen.
        tail: what vouches for the end, if that is not signed.
        bound: how many entries are part of the state at most; None if all are.
        shown: where that part ends; the rest is kept, and neither told nor counted.
    """

    tip: Tip
    opening: Opening | None = None
    heads: dict[int, bytes] = field(default_factory=dict)
    stops: list[int] = field(default_factory=list)
    loose: int = 0
    fork: Fork | None = None
    tail: Branch | None = None
    bound: int | None = None
    shown: Tip = field(init=False)

    def __post_init__(self) -> None:
        self.shown = self.tip

    @property
    def limit(self) -> int | None:
        """The most entries it may have; None if it is not frozen."""
        return self.fork.position - 1 if self.fork else None

    @property
    def spoilt(self) -> bool:
        """Whether its writer signed two openings."""
        return self.limit == 0

    @property
    def closed(self) -> bool:
        """Whether more of it would not be part of the state."""
        return self.bound is not None and self.tip.length >= self.bound

    @property
    def disk_bytes(self) -> int:
        """What it takes on disk, about."""
        return self.tip.size_bytes + ENTRY_BYTES * self.tip.length


@dataclass(frozen=True)
class Pen:
    """A key that writes a log of ours, and what let it in."""

    key: Key
    opening: Opening

    @property
    def writer(self) -> PeerId:
        """The name of the log."""
        return self.opening.writer

    def sign(self, network: str, tip: Tip) -> bytes:
        """Return the signature under ``tip``."""
        return sign_head(self.key, network, self.writer, tip)


@dataclass(frozen=True, slots=True)
class News:
    """Entries that have been checked and may be added."""

    writer: PeerId
    opening: Opening
    rows: Sequence[Row]
    before: Tip
    tip: Tip
    loose: bool
    rest: Branch
