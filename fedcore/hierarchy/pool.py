"""Aggregator processes on one machine, which sum updates through shared memory.

The pool is the gateway of its machine: it writes every update once, into a free slot,
and tells a leaf where it lies. The leaf adds it to its sum and says so, and the slot
is free again. When all slots are taken the gateway waits: memory is bounded by the
form of the model, whatever the number of updates. Above the leaves sums are not moved
at all: who is promoted reads the others' where they are.

The processes stay for the next round. One that dies is replaced, and nothing is lost.
"""

import logging
import select
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch

from fedcore.closing import Closing
from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.hierarchy.arena import INT64, KINDS, Arena, Frame
from fedcore.hierarchy.hand import Errand, Hand
from fedcore.hierarchy.plan import best_fit, widths
from fedcore.hierarchy.role import Effect, Merge, Total, Tree
from fedcore.hierarchy.seen import Seen
from fedcore.partial import WRAP, Partial, Sum, summed
from fedcore.ring import ONE
from fedcore.strategy import Update

_log = logging.getLogger(__name__)


class Pool(Closing):
    """An ``Aggregator`` of several processes; close it after use.

    Args:
        leaves: processes, >= 1.
        fan_in: sums that one aggregator above the leaves takes, >= 2.
        depth: updates that may wait at one leaf, its current one included, >= 1.
        patience_s: longest time for one update; who takes longer is replaced.

    Raises:
        ConfigError: there can be no such tree.
        StorageError: there is no memory for it to share.
        PeerLostError: a process cannot be started; none is left behind.
    """

    def __init__(
        self,
        leaves: int,
        fan_in: int = 2,
        depth: int = 2,
        patience_s: float = 120.0,
    ) -> None:
        widths(leaves, fan_in)
        if depth < 1 or not patience_s > 0:
            raise ConfigError(
                f"depth must be >= 1 and patience_s > 0: {depth}, {patience_s}"
            )
        self._fan_in, self._depth = fan_in, depth
        self._patience_s = patience_s
        self._arena = Arena.new(Frame(1, 8, leaves * depth, leaves))
        self._free = list(range(leaves * depth))
        self.hands: list[Hand] = []
        self._open = True
        with ExitStack() as undo:
            undo.callback(self.close)
            for number in range(leaves):
                self.hands.append(Hand(number, self._arena))
            undo.pop_all()

    @property
    def pids(self) -> list[int]:
        """The process ids of the aggregators."""
        return [hand.pid for hand in self.hands]

    @property
    def shared_bytes(self) -> int:
        """The memory that the gateway and the aggregators share."""
        return self._arena.frame.size_bytes

    def summed(self, updates: Iterable[Update]) -> Partial:
        """Return the exact sum of ``updates``; see ``Aggregator``.

        Raises:
            ProtocolError: see ``Partial.add``.
            PeerLostError: an aggregator died several times over one update of a
                stream, which is gone. The pool can be used again.
        """
        if not isinstance(updates, Sequence):
            return self._streamed(updates)
        if len(updates) < 2:
            return summed(updates)  # nothing to share out
        try:
            return self._streamed(updates)
        except PeerLostError as lost:
            _log.warning("%s: summed without aggregators", lost)
            return summed(updates)

    def _streamed(self, updates: Iterable[Update]) -> Partial:
        whole, run = Partial(), None
        try:
            for update in updates:
                seen = Seen.of(update)
                if run is not None and not run.takes(seen):
                    whole = _joined(whole, run.finish())
                    run = None
                run = run or _Run(self, seen)
                run.add(seen)
            return _joined(whole, run.finish()) if run else whole
        except PeerLostError:
            self._give_up()
            raise
        except BaseException:
            self._settle()
            raise

    def arena(self, numbers: int, kind: int) -> Arena:
        """Return the arena, made anew if ``numbers`` of ``kind`` do not fit it."""
        size_bytes, now = numbers * KINDS[kind].itemsize, self._arena.frame
        if now.numbers != numbers or now.slot_bytes < size_bytes:
            frame = Frame(numbers, size_bytes, now.slots, now.aggregators)
            old, self._arena = self._arena, Arena.new(frame)
            for hand in self.hands:
                hand.map(self._arena)
            old.close()
        return self._arena

    def room(self) -> tuple[Hand, int]:
        """Wait for a leaf that can take an update; return it and a free slot.

        The busiest such leaf is taken, so that others stay free to be promoted.
        """
        while True:
            rooms = {h.number: self._depth - len(h.pending) for h in self.hands}
            number = best_fit(1, rooms)
            if number is not None:
                return self.hands[number], self._free.pop()
            self.collect()

    def collect(self) -> list[Errand]:
        """Wait until some orders are done and return them.

        Raises:
            PeerLostError: a process died, or did not answer, several times over one.
        """
        poll = select.poll()
        wires = {hand.wire.fileno(): hand for hand in self.hands if hand.pending}
        for wire in wires:
            poll.register(wire, select.POLLIN)
        ready = poll.poll(self._patience_s * 1000)
        if not ready:
            for hand in wires.values():
                hand.revive()
        errands = [errand for wire, _ in ready for errand in wires[wire].done()]
        self._free += [errand.slot for errand in errands if errand.slot >= 0]
        return errands

    def _settle(self) -> None:
        """Wait for what is under way, so that the next sum starts clean."""
        try:
            while any(hand.pending for hand in self.hands):
                self.collect()
            self._free = list(range(self._arena.frame.slots))
        except PeerLostError:
            self._give_up()

    def _give_up(self) -> None:
        """Drop what is under way, and who is at it.

        Raises:
            PeerLostError: no other can be started in its place; the pool is closed.
        """
        try:
            for hand in self.hands:
                if hand.pending:
                    hand.replace()
        except PeerLostError:
            self.close()
            raise
        self._free = list(range(self._arena.frame.slots))

    def close(self) -> None:
        """End the processes and give the memory back."""
        for hand in self.hands:
            hand.end()
        self.hands = []
        if self._open:
            self._arena.close()
        self._open = False


class _Run:
    """One sum under way: updates of one form, whose sum stays in the ring's range."""

    def __init__(self, pool: Pool, first: Seen) -> None:
        if not pool.hands:
            raise ConfigError("this pool is closed")
        self.pool = pool
        self.shapes = first.shapes
        self.reaches = dict.fromkeys(self.shapes, 0)
        self.examples, self.version = 0, -1
        numbers = sum(shape.numel() for shape in self.shapes.values())
        self.arena = pool.arena(max(numbers, 1), first.kind)
        for hand in pool.hands:
            hand.begin_sum()

    def takes(self, seen: Seen) -> bool:
        """Tell whether an update fits in: its slot, and its sum with those before.

        Raises:
            ProtocolError: its names or shapes are others.
        """
        mine, shapes = self.shapes, seen.shapes
        if shapes != mine:
            odd = min(n for n in mine | shapes if mine.get(n) != shapes.get(n))
            peer = seen.update.peer
            raise ProtocolError(f"{peer}: names or shapes differ, first at {odd!r}")
        frame = self.arena.frame
        if KINDS[seen.kind].itemsize * frame.numbers > frame.slot_bytes:
            return False
        return all(self.reaches[n] + more < WRAP for n, more in seen.reaches.items())

    def add(self, seen: Seen) -> None:
        """Hand an update to a leaf; waits while all have enough to do."""
        update, kind = seen.update, seen.kind
        hand, slot = self.pool.room()
        target = torch.from_numpy(self.arena.slot(slot, kind, update.peer))
        parts = torch.split(target, [s.numel() for s in self.shapes.values()])
        for name, part in zip(self.shapes, parts, strict=False):
            part.copy_(update.payload[name].detach().reshape(-1))
        scale = 1.0 if kind == INT64 else float(update.examples) * ONE
        hand.give(self.arena.frame.slot_at(slot), kind, scale, slot)
        for name, more in seen.reaches.items():
            self.reaches[name] += more
        self.examples += update.examples
        self.version = max(self.version, update.version)

    def finish(self) -> Partial:
        """Merge the leaves' sums, each as soon as it is complete; return the total."""
        waiting = [hand for hand in self.pool.hands if hand.given]
        tree = Tree.over(tuple(h.number for h in waiting), self.pool._fan_in)
        todo: list[Effect | None] = []
        while True:
            for hand in [h for h in waiting if not h.pending]:
                waiting.remove(hand)
                tree, effect = tree.leaf_done(hand.number)
                todo.append(effect)
            for effect in todo:
                if isinstance(effect, Total):
                    return self._total(effect.holder)
                if effect is not None:
                    self._merge(effect)
            todo = []
            for errand in self.pool.collect():
                if errand.merge is not None:
                    tree, effect = tree.merge_done(errand.merge)
                    todo.append(effect)

    def _merge(self, merge: Merge) -> None:
        at = self.arena.frame.sum_at(merge.source)
        self.pool.hands[merge.into].give(at, INT64, 1.0, merge=merge)

    def _total(self, holder: int) -> Partial:
        line = torch.from_numpy(self.arena.sum(holder)).clone()
        parts = torch.split(line, [s.numel() for s in self.shapes.values()])
        sums = {
            name: Sum(part.view(shape), self.reaches[name])
            for (name, shape), part in zip(self.shapes.items(), parts, strict=False)
        }
        return Partial(self.examples, self.version, sums)


def _joined(whole: Partial, part: Partial) -> Partial:
    if not whole.examples:
        return part
    whole.merge(part)
    return whole
