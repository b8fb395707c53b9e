"""The shared-seed model of each run, added up from the facts in the logs.

A fact's peer is the writer of the log it stands in, so the log's signature vouches for
it, and a log is one register of the model. Facts of a writer count in the order of its
log; one that does not follow on the one before is passed over, by everybody alike.
Only facts of the pool, first weights and scale that the run names are counted, so that
nobody but admins decides how much memory a model takes.

Torch is loaded when the first model is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fedcore.errors import ConfigError, FactError, ProtocolError
from fedcore.names import PeerId
from p2p.state.bodies import RunFact, read_as
from p2p.state.chain import Entry, Kind
from p2p.state.fold import Fold
from p2p.state.places import Listed
from p2p.state.said import Place

if TYPE_CHECKING:
    from fedcore.orderfree import Fact, Model, Origin, Withdrawal


WAITS = 300  # for the run of a fact that is to be said again


@dataclass
class _Sum:
    """A model, and how many of the run's facts were taken."""

    origin: str
    turn: int
    model: Model
    places: Sequence[Place] = ()
    taken: int = 0
    refused: dict[Place, str] = field(default_factory=dict)
    withdrawing: set[PeerId] = field(default_factory=set)

    def forget(self, writers: Collection[PeerId]) -> None:
        """Leave out all that stands in the logs of ``writers``, which withdrew none."""
        kept = {w: r for w, r in self.model.registers.items() if w not in writers}
        self.model = replace(self.model, registers=kept)
        refused = self.refused.items()
        self.refused = {p: why for p, why in refused if p.writer not in writers}
        before = self.places[: self.taken]
        self.taken = sum(place.writer not in writers for place in before)


@dataclass
class Models:
    """Models by run, each added up as far as somebody looked."""

    fold: Fold
    _sums: dict[str, _Sum] = field(default_factory=dict)
    _waited: Counter[str] = field(default_factory=Counter)

    def model(self, run: str) -> Model:
        """Return the model of ``run``.

        Raises:
            ConfigError: there is no such run, or it has no such model.
        """
        return self._sum(run).model

    def refused(self, run: str) -> dict[Place, str]:
        """Return which facts of ``run`` were passed over, and why."""
        return dict(self._sum(run).refused)

    def renewed(
        self, entries: Sequence[Entry], writer: PeerId
    ) -> tuple[list[Entry], int]:
        """Return ``entries`` of a log of ours as another log of ours, ``writer``, says.

        Facts are numbered anew. One that never counted is left out, and so is an
        opening. A fact of a run that is not known yet waits, with all that follow it:
        ask again later. After many times it waits no more, and is left out.

        Returns:
            The entries, and how many of those given are dealt with.
        """
        models: dict[str, Model] = {}
        found: list[Entry] = []
        for done, entry in enumerate(entries):
            if entry.kind == Kind.FACT and self._waits(entry):
                return found, done
            if entry.kind == Kind.FACT:
                found += self._renewed(entry, writer, models)
            elif entry.kind != Kind.OPENING:
                found.append(entry)
        return found, len(entries)

    def _waits(self, entry: Entry) -> bool:
        """Return whether the run of a fact may still become known."""
        with suppress(ProtocolError):
            run = read_as(RunFact, entry).run
            if run not in self.fold.view().runs:
                self._waited[run] += 1
                return self._waited[run] <= WAITS
        return False

    def _renewed(
        self, entry: Entry, writer: PeerId, models: dict[str, Model]
    ) -> list[Entry]:
        from fedcore.orderfree import Fact, apply, encode_fact, fact_of
        from fedcore.orderfree.facts import dense

        try:
            run, fact = _read(entry)
            model = models.get(run) or self.model(run)
            if isinstance(fact, Fact):
                fact = fact_of(model, writer, dense(fact))
            models[run] = apply(model, fact)
        except (ProtocolError, ConfigError):
            return []
        return [Entry(Kind.FACT, RunFact(run, encode_fact(fact)).encode())]

    def _sum(self, run: str) -> _Sum:
        from fedcore.orderfree import begin

        view = self.fold.view()
        if run not in view.runs:
            raise ConfigError(f"no run is called {run!r}")
        origin, places = view.runs[run].origin, view.facts.get(run, Listed((), 0))
        found = self._sums.get(run)
        changed = self.fold.changed(found.turn) if found else None
        if (
            found is None
            or found.origin != origin
            or changed is None
            or not found.withdrawing.isdisjoint(changed)
        ):
            found = self._sums[run] = _Sum(origin, 0, begin(read_origin(origin)))
            changed = ()
        for place in _untaken(found, places, frozenset(changed)):
            self._take(found, place)
        found.turn = self.fold.turns
        found.places, found.taken = places.places, len(places)
        return found

    def _take(self, found: _Sum, place: Place) -> None:
        from fedcore.orderfree import Withdrawal, apply

        logs = self.fold.logs
        [(entry, _)] = logs.store.rows(place.writer, place.position - 1, place.position)
        opening = logs.by_writer[place.writer].opening
        try:
            _, fact = _read(entry)
            if isinstance(fact, Withdrawal):
                if opening is None or opening.role != "admin":
                    raise FactError("signer", place.writer, "only admins withdraw")
                found.model = apply(found.model, fact)
                found.withdrawing.add(place.writer)
            else:
                found.model = apply(found.model, fact, place.writer)
        except ProtocolError as error:
            found.refused[place] = str(error)


def _untaken(
    found: _Sum, places: Listed, changed: Collection[PeerId]
) -> Sequence[Place]:
    """Return what of ``places`` is still to be taken; forget what has changed.

    Places of a log that was folded anew stand elsewhere now; those of others are in
    the order in which they were.
    """
    if places.places is found.places:
        return places[found.taken :]
    found.forget(changed)
    others = [place for place in places if place.writer not in changed]
    anew = [place for place in places if place.writer in changed]
    return others[found.taken :] + anew


def origin_text(origin: Origin) -> str:
    """Return ``origin`` as a run names it."""
    return f"{origin.pool.word()} {origin.base} {origin.scale.hex()}"


def read_origin(text: str) -> Origin:
    """Return the origin that a run names.

    Raises:
        ConfigError: ``text`` is none.
    """
    from fedcore.orderfree import Origin
    from fedcore.pool import Pool

    word, _, rest = text.partition(" ")
    base, _, scale = rest.partition(" ")
    try:
        return Origin(Pool.of(word), base, float.fromhex(scale))
    except (ProtocolError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"the run names no shared-seed model ({text[:80]!r}): {error}; take "
            "origin_text of one"
        ) from error


def _read(entry: Entry) -> tuple[str, Fact | Withdrawal]:
    from fedcore.orderfree import decode_fact

    body = read_as(RunFact, entry)
    return body.run, decode_fact(body.fact)
