"""Many updates as one: the exact weighted sum that every "sum" strategy folds.

Because the sum is taken on the ring, ``mean_of(updates)`` has the same bits
whether the updates come one by one, in any order, or merged by a tree of
aggregators, a secure sum or an all-reduce.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.ring import LIMIT, ONE, add_encoded, add_rows, decode, encode, reach
from fedcore.strategy import Update

WRAP = 1 << 63  # sums of this size or more may leave int64
SMALL = 1 << 14  # numbers of an update that is cheaper to sum with others at once


@dataclass
class Sum:
    """An exact sum of ring elements: ``total + 2^64 * wraps``.

    Attributes:
        total: the sum mod 2^64, int64.
        reach: no element can exceed this in size; below 2^63 nothing has wrapped.
        wraps: times each element wrapped, up less down, int64; None for nowhere.
    """

    total: Tensor
    reach: int = 0
    wraps: Tensor | None = None

    def add_real(self, x: Tensor, weight: int, reach: int) -> None:
        """Add ``weight * x``, which is within ``reach`` on the ring."""
        if self.reach + reach < WRAP:
            self.reach += reach
            add_encoded(self.total, x, weight)
        else:
            self.add(Sum(encode(x, weight), reach))

    def add(self, other: "Sum") -> None:
        """Add ``other``, which stays as it is."""
        self.reach += other.reach
        before = self.total.clone() if self.reach >= WRAP else None
        self.total += other.total
        if before is not None:
            self._count_wraps(before, other)

    def _count_wraps(self, before: Tensor, other: "Sum") -> None:
        # Two of one sign whose sum has the other sign have wrapped.
        wrapped = ((before ^ self.total) & (other.total ^ self.total)) < 0
        turns = wrapped * torch.where(other.total < 0, -1, 1)
        for wraps in (self.wraps, other.wraps):
            turns = turns if wraps is None else turns + wraps
        self.wraps = turns if bool(turns.any()) else None

    def mean(self, weight: int, dtype: torch.dtype) -> Tensor:
        """Return the sum divided by ``weight``; it may have left the ring's range."""
        if self.wraps is None:
            return decode(self.total, weight, dtype)
        turns = self.wraps.double() * (2.0**64 / ONE / weight)
        return (decode(self.total, weight) + turns).to(dtype)


@dataclass
class Partial:
    """A weighted sum of updates under way; its memory is one model, not many.

    What it has been given is never written to, and what it has given is not written
    to by later additions.

    Attributes:
        examples: total weight so far.
        version: highest version so far; -1 for none.
        sums: the sum of each tensor.
    """

    examples: int = 0
    version: int = -1
    sums: dict[str, Sum] = field(default_factory=dict)
    given_away: bool = False

    def add(self, update: Update) -> None:
        """Add one update, or one that stands for many.

        Raises:
            ProtocolError: the weight is below 1, a product with it is out of the
                ring's range, or names or shapes differ from those before; nothing
                was added then.
        """
        if update.examples < 1:
            raise ProtocolError(f"{update.peer}: weight {update.examples} is below 1")
        tree = update.payload
        self._check({name: t.shape for name, t in tree.items()}, update.peer)
        reaches = {name: _reach(t, update.examples) for name, t in tree.items()}
        self._own({name: t.shape for name, t in tree.items()})
        for name, t in tree.items():
            if t.dtype == torch.int64:
                self.sums[name].add(Sum(t, reaches[name]))
            else:
                self.sums[name].add_real(t, update.examples, reaches[name])
        self.examples += update.examples
        self.version = max(self.version, update.version)

    def merge(self, other: "Partial") -> None:
        """Add all that ``other`` holds; ``other`` stays as it is.

        Raises:
            ProtocolError: names or shapes differ.
        """
        if not other.examples:
            return
        shapes = {name: s.total.shape for name, s in other.sums.items()}
        self._check(shapes, "the other sum")
        self._own(shapes)
        for name, more in other.sums.items():
            self.sums[name].add(more)
        self.examples += other.examples
        self.version = max(self.version, other.version)

    def update(self, peer: str = "sum") -> Update:
        """Return one update that stands for all that were added, exactly.

        Raises:
            ProtocolError: nothing was added, or the sum leaves the ring's range.
        """
        self._check_any()
        for name, s in self.sums.items():
            if s.wraps is not None:
                raise ProtocolError(f"the sum of {name} leaves the ring's range")
        self.given_away = True
        payload = {name: s.total for name, s in self.sums.items()}
        return Update(peer, self.version, payload, self.examples)

    def mean(self, dtype: torch.dtype = torch.float32) -> Params:
        """Return the mean payload weighted by examples; it never overflows.

        Raises:
            ProtocolError: nothing was added.
        """
        self._check_any()
        return {name: s.mean(self.examples, dtype) for name, s in self.sums.items()}

    def _check_any(self) -> None:
        if not self.examples:
            raise ProtocolError("no updates to fold")

    def _check(self, shapes: dict[str, torch.Size], source: str) -> None:
        """Refuse other names or shapes than those of the updates before."""
        if not self.examples:
            return
        mine = {name: s.total.shape for name, s in self.sums.items()}
        if shapes == mine:
            return
        odd = min(n for n in mine | shapes if mine.get(n) != shapes.get(n))
        raise ProtocolError(f"{source}: names or shapes differ, first at {odd!r}")

    def _own(self, shapes: dict[str, torch.Size]) -> None:
        """Make sure that there are sums of ``shapes`` which nobody else holds."""
        if not self.examples:
            zeros = (torch.zeros(shape, dtype=torch.int64) for shape in shapes.values())
            self.sums = dict(zip(shapes, map(Sum, zeros), strict=True))
        elif self.given_away:
            for s in self.sums.values():
                s.total = s.total.clone()
        self.given_away = False


def summed(updates: Iterable[Update]) -> Partial:
    """Return the sum of ``updates``, which may be a stream; none is kept then.

    A list of small updates is summed as one matrix: the same integers, without the
    cost of a dozen calls a tensor.
    """
    if isinstance(updates, Sequence) and _small_and_alike(updates):
        return _summed_as_matrix(updates)
    partial = Partial()
    for update in updates:
        partial.add(update)
    return partial


def _small_and_alike(updates: Sequence[Update]) -> bool:
    """Tell whether ``updates`` are float32 trees of one form, few numbers each."""
    if len(updates) < 2:
        return False
    form = [(name, t.shape) for name, t in updates[0].payload.items()]
    return 0 < sum(shape.numel() for _, shape in form) <= SMALL and all(
        u.examples >= 1
        and [(name, t.shape) for name, t in u.payload.items()] == form
        and all(t.dtype == torch.float32 for t in u.payload.values())
        for u in updates
    )


def _summed_as_matrix(updates: Sequence[Update]) -> Partial:
    parts = [t.reshape(-1) for u in updates for t in u.payload.values()]
    rows = torch.cat(parts).view(len(updates), -1)  # (n, d)
    weights = torch.tensor([float(u.examples) for u in updates], dtype=torch.float64)
    most = float((rows.abs().amax(1) * weights).sum())
    if not most < LIMIT:  # NaN too: one by one, refusing or counting wraps
        return summed(iter(updates))
    total = torch.zeros(rows.shape[1], dtype=torch.int64)
    add_rows(total, rows, weights)
    like = updates[0].payload
    cut = torch.split(total, [t.numel() for t in like.values()])
    named = zip(like.items(), cut, strict=True)
    bound = int(most * ONE) + len(updates)
    sums = {name: Sum(part.view(t.shape), bound) for (name, t), part in named}
    examples = sum(u.examples for u in updates)
    return Partial(examples, max(u.version for u in updates), sums)


def merged(updates: Iterable[Update], peer: str = "sum") -> Update:
    """Return one update that stands for all of ``updates``, exactly.

    Raises:
        ProtocolError: the sum would leave the ring's range; see ``Partial.add`` too.
    """
    return summed(updates).update(peer)


def mean_of(updates: Iterable[Update]) -> Params:
    """Return the mean payload weighted by examples, float32, the same in any order.

    Raises:
        ProtocolError: see ``Partial.add``.
    """
    return summed(updates).mean()


def _reach(t: Tensor, weight: int) -> int:
    if t.dtype != torch.int64:
        return reach(t, weight)
    low, high = (end.item() for end in torch.aminmax(t)) if t.numel() else (0, 0)
    return int(max(abs(low), abs(high)))
