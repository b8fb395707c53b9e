"""Any life of a shelf: what it promised to keep is there, and no bad byte ever is."""

import random
from contextlib import suppress

import pytest

from fedcore.errors import ProtocolError, StorageError
from p2p.content.adding import add_bytes, read_bytes
from p2p.content.manifest import KIB, manifest_of
from p2p.content.shelf import Shelf
from p2p.content.space import MemorySpace

CHUNK = 256 * KIB
BLOBS = [bytes([i]) * (CHUNK * (1 + i % 2) - i) for i in range(1, 9)]
QUOTA = 9 * CHUNK + 2000


class Life:
    """A shelf, and what it owes."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.space = MemorySpace(room_bytes=11 * CHUNK)
        self.shelf = self.born()
        self.pinned = {}  # must be there, whole
        self.damaged = set()

    def born(self):
        return Shelf(self.space, quota_bytes=QUOTA, max_partial=3)

    def add(self, data, cid):
        pin = self.dice.random() < 0.3 and len(self.pinned) < 2
        add_bytes(self.shelf, data, pin=pin)
        self.damaged.discard(cid)
        if pin:
            self.pinned[cid] = data

    def keep(self, data, cid):
        manifest = manifest_of(data)
        self.shelf.begin(manifest)
        for index in range(manifest.chunks):
            begin, size = manifest.span(index)
            good = self.dice.random() < 0.7
            part = data[begin : begin + size] if good else bytes(size)
            try:
                if self.shelf.keep(cid, index, part) and index == 0:
                    self.damaged.discard(cid)  # where ``damage`` strikes
            except ProtocolError:
                assert not good

    def release(self, data, cid):
        self.shelf.release(cid)

    def damage(self, data, cid):
        if cid not in self.pinned and f"{cid}.blob" in self.space.names():
            self.space.write(f"{cid}.blob", 5, b"!")
            self.damaged.add(cid)

    def read(self, data, cid):
        try:
            assert read_bytes(self.shelf, cid) == data
        except StorageError:
            assert cid in self.damaged

    def restart(self, data, cid):
        self.shelf = self.born()

    def power_cut(self, data, cid):
        self.space.crash()
        self.shelf = self.born()

    def remove(self, data, cid):
        if cid not in self.pinned:
            self.shelf.remove(cid)

    def live(self, steps):
        deeds = [self.add, self.keep, self.release, self.damage, self.read]
        deeds += [self.restart, self.power_cut, self.remove]
        for _ in range(steps):
            data = self.dice.choice(BLOBS)
            with suppress(StorageError, ProtocolError):  # no room, or not here
                self.dice.choice(deeds)(data, manifest_of(data).cid)
            self.check()

    def check(self):
        assert self.shelf.total_bytes() <= QUOTA
        blobs = self.shelf.blobs()
        assert sum(not blob.whole for blob in blobs) <= 3 + len(self.damaged)
        for cid, data in self.pinned.items():
            assert read_bytes(self.shelf, cid) == data
            assert self.shelf.blob(cid).pinned


@pytest.mark.parametrize("seed", range(3))
def test_a_shelf_keeps_its_promises(seed):
    Life(seed).live(60)


@pytest.mark.slow
def test_many_shelves_keep_their_promises():
    for seed in range(100, 125):
        Life(seed).live(80)


class Killed(BaseException):
    """The program ends here."""


class Dying(MemorySpace):
    """A space that ends the program at the n-th change, before or after it."""

    left, after = 1 << 30, False

    def _change(self, do, *given):
        self.left -= 1
        last = self.left == 0
        if last and not self.after:
            raise Killed
        do(*given)
        if last:
            raise Killed

    def reserve(self, name, size_bytes):
        self._change(super().reserve, name, size_bytes)

    def replace(self, name, data):
        self._change(super().replace, name, data)

    def write(self, name, offset, data):
        self._change(super().write, name, offset, data)

    def rename(self, old, new):
        self._change(super().rename, old, new)

    def remove(self, name):
        self._change(super().remove, name)


def story(shelf, done):
    """Add, fetch, find damage, mend and remove; note in ``done`` what was promised."""
    one, two, three = BLOBS[:3]
    done["added"] = add_bytes(shelf, one)
    manifest = manifest_of(two)
    shelf.begin(manifest)
    for index in range(manifest.chunks):
        begin, size = manifest.span(index)
        shelf.keep(manifest.cid, index, two[begin : begin + size])
    done["fetched"] = manifest.cid
    shelf.remove(add_bytes(shelf, three))
    add_bytes(shelf, one)


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_change_leaves_a_shelf_that_keeps_its_promises(power, after):
    deaths = 0
    for left in range(1, 200):
        space, done = Dying(), {}
        shelf = Shelf(space)
        space.left, space.after = left, after
        try:
            story(shelf, done)
        except Killed:
            deaths += 1
        else:
            break
        space.left = 1 << 30
        if power:
            space.crash()
        again = Shelf(space)
        for what, data in (("added", BLOBS[0]), ("fetched", BLOBS[1])):
            if what in done:
                assert read_bytes(again, done[what]) == data
        story(again, done)
        assert {b.cid for b in again.blobs()} == {done["added"], done["fetched"]}
        assert all(blob.whole for blob in again.blobs())
        assert len(space.names()) == 5  # two of each, and a pin
    assert deaths > 15
