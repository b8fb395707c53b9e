"""Documents of pycrdt (Yjs) and Loro that do what our replicas do: see ``crdt_log``.

    python -m sims.bench.peers.crdt_docs pycrdt|loro

Entries are set in one map, an entry a key; a batch is a transaction. Python alone but
for the library that is measured, so that it may live in another environment.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise, permutations
from typing import Protocol

from sims.bench.peers.answers import answer

State = dict[str, float]
CLONED = 3  # the number of the replica whose disk is copied


class Doc(Protocol):
    """A replica."""

    def set(self, names: Sequence[str]) -> None:
        """Write entries, as one transaction."""
        ...

    def version(self) -> bytes:
        """Return how far everybody's entries are known here."""
        ...

    def since(self, version: bytes | None) -> bytes:
        """Return what somebody at ``version`` lacks; all, without one."""
        ...

    def take(self, update: bytes) -> None:
        """Take in what another replica has told."""
        ...

    def state(self) -> State:
        """Return all entries."""
        ...


class YDoc:
    """A document of pycrdt."""

    def __init__(self, number: int) -> None:
        pycrdt = import_module("pycrdt")
        self._doc, self._map = pycrdt.Doc(client_id=number), pycrdt.Map()
        self._doc["m"] = self._map

    def set(self, names: Sequence[str]) -> None:
        with self._doc.transaction():
            for name in names:
                self._map[name] = 1

    def version(self) -> bytes:
        return bytes(self._doc.get_state())

    def since(self, version: bytes | None) -> bytes:
        return bytes(self._doc.get_update(version) if version else self._whole())

    def _whole(self) -> bytes:
        return bytes(self._doc.get_update())

    def take(self, update: bytes) -> None:
        self._doc.apply_update(update)

    def state(self) -> State:
        return dict(self._map.to_py())


class LoroDoc:
    """A document of Loro."""

    def __init__(self, number: int) -> None:
        self._loro = import_module("loro")
        self._doc = self._loro.LoroDoc()
        self._doc.peer_id = number
        self._map = self._doc.get_map("m")

    def set(self, names: Sequence[str]) -> None:
        for name in names:
            self._map.insert(name, 1)
        self._doc.commit()

    def version(self) -> bytes:
        return bytes(self._doc.oplog_vv.encode())

    def since(self, version: bytes | None) -> bytes:
        vector = self._loro.VersionVector
        known = vector.decode(version) if version else vector()
        return bytes(self._doc.export(self._loro.ExportMode.Updates(known)))

    def take(self, update: bytes) -> None:
        self._doc.import_(update)

    def state(self) -> State:
        return dict(self._map.get_value())


DOCS: dict[str, Callable[[int], Doc]] = {"pycrdt": YDoc, "loro": LoroDoc}


class Docs:
    """What the bench asks for, done with documents of one library."""

    def __init__(self, make: Callable[[int], Doc]) -> None:
        self.make = make
        self.kept: Doc | None = None

    def write(self, many: int, batch: int, size_bytes: int) -> float:
        """Return the CPU seconds that writing takes."""
        doc, batches = self.make(1), batches_of(many, batch, size_bytes)
        began = time.process_time()
        for names in batches:
            doc.set(names)
        doc.state()
        return time.process_time() - began

    def check(self, many: int, batch: int, size_bytes: int) -> float:
        """Return the CPU seconds that taking in what was written takes."""
        source, told, told_to = self.make(1), list[bytes](), self.make(2)
        versions = [source.version()]
        for names in batches_of(many, batch, size_bytes):
            source.set(names)
            told.append(source.since(versions[-1]))
            versions.append(source.version())
        began = time.process_time()
        for update in told:
            told_to.take(update)
        state = told_to.state()
        took_s = time.process_time() - began
        if len(state) != many:
            raise AssertionError(f"{len(state)} of {many} entries have come through")
        return took_s

    def keep(self, many: int, size_bytes: int) -> int:
        """Hold a replica of many entries; return how many."""
        self.kept = self.make(1)
        for names in batches_of(many, 100, size_bytes):
            self.kept.set(names)
        return many

    def join(self, many: int, size_bytes: int) -> int:
        """Return the bytes of all that one who is new has to be told."""
        self.keep(many, size_bytes)
        assert self.kept is not None  # noqa: S101 - just made
        return len(self.kept.since(None))

    def gossip(self, peers: int, each: int, size_bytes: int) -> dict[str, float]:
        """Let everybody write, and everybody ask somebody, until all are level."""
        docs = [self.make(number + 1) for number in range(peers)]
        for number, doc in enumerate(docs):
            doc.set([name(number * each + n, size_bytes) for n in range(each)])
        dice, sent, rounds = random.Random(1), 0, 0
        began = time.process_time()
        while len({doc.version() for doc in docs}) > 1 and rounds < 100:
            order = list(range(peers))
            dice.shuffle(order)
            for at in order:
                other = dice.choice([n for n in range(peers) if n != at])
                sent += exchanged(docs[at], docs[other])
            rounds += 1
            if all(len(doc.state()) == peers * each for doc in docs):
                break
        return {"rounds": rounds, "s": time.process_time() - began, "bytes": sent}

    def clone(self, peers: int, each: int) -> dict[str, int]:
        """Let two replicas write under one id; see ``parted``."""
        docs = [self.make(number + 1) for number in range(peers)]
        for number, doc in enumerate(docs):
            doc.set([name(number, 12)])
        everybody(docs)
        copy = self.make(CLONED + 1)
        copy.take(docs[CLONED].since(None))
        for at, doc in enumerate((docs[CLONED], copy), 1):
            doc.set([name(1000 * at + n, 12) for n in range(each)])
        docs.append(copy)
        for _ in range(3):
            everybody(docs)
        return parted([frozenset(doc.state()) for doc in docs], peers + 2 * each)

    def forge(self, count: int) -> int:
        """Return how many entries count that were written in another's name."""
        victim, judge = self.make(1), self.make(2)
        victim.set([name(0, 12)])
        judge.take(victim.since(None))
        thief = self.make(1)
        thief.take(victim.since(None))
        for number in range(count):
            before = thief.version()
            thief.set([name(1000 + number, 12)])
            judge.take(thief.since(before))
        return len(judge.state()) - 1

    def flip(self, count: int) -> int:
        """Return how many messages with one wrong bit changed what they say."""
        source = self.make(1)
        source.set([name(n, 12) for n in range(16)])
        update = source.since(None)
        return sum(self._is_misled(f, source.state()) for f in flipped(update, count))

    def _is_misled(self, update: bytes, honest: State) -> bool:
        judge = self.make(2)
        try:
            judge.take(update)
            return judge.state() not in ({}, honest)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - what Rust raises is no Exception
            return False


def name(number: int, size_bytes: int) -> str:
    """Return the name of an entry that takes ``size_bytes`` with its value."""
    return f"{number:x}".rjust(size_bytes - 2, "n")


def batches_of(many: int, batch: int, size_bytes: int) -> list[list[str]]:
    """Return the names of ``many`` entries in batches."""
    starts = [*range(0, many, batch), many]
    return [[name(n, size_bytes) for n in range(a, b)] for a, b in pairwise(starts)]


def exchanged(asker: Doc, asked: Doc) -> int:
    """Make two level; return the bytes that were sent."""
    question = asker.version()
    answered, question_back = asked.since(question), asked.version()
    asker.take(answered)
    told = asker.since(question_back)
    asked.take(told)
    return sum(map(len, (question, answered, question_back, told)))


def everybody(docs: Sequence[Doc]) -> None:
    """Let everybody exchange with everybody, in any order."""
    pairs = list(permutations(docs, 2))
    random.Random(1).shuffle(pairs)
    for one, other in pairs:
        exchanged(one, other)


def parted(states: Sequence[frozenset[str]], written: int) -> dict[str, int]:
    """Return what became of ``written`` entries once all have exchanged all.

    ``apart`` is how many replicas are not in the largest group of equals, ``missing``
    how many entries somebody lacks.
    """
    apart = len(states) - max(Counter(states).values())
    everywhere = frozenset.intersection(*states)
    return {"apart": apart, "missing": written - len(everywhere)}


def flipped(data: bytes, count: int) -> list[bytes]:
    """Return ``count`` copies of ``data``, each with one bit changed."""
    copies = []
    for number in range(count):
        copy = bytearray(data)
        copy[number * len(data) // count] ^= 1 << (number % 8)
        copies.append(bytes(copy))
    return copies


def main(library: str) -> None:
    """Answer the bench."""
    docs = Docs(DOCS[library])
    docs.make(1)  # fails now if the library is missing
    acts = ("write", "check", "keep", "join", "gossip", "clone", "forge", "flip")
    answer({act: getattr(docs, act) for act in acts})


if __name__ == "__main__":
    main(sys.argv[1])
