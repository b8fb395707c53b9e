"""The shared-seed model of each run, added up from the facts in the logs.

A fact's peer is the writer of the log it stands in, so the log's signature vouches for
it, and a log is one register of the model. Facts of a writer count in the order of its
log; one that does not follow on the one before is passed over, by everybody alike.
Only facts of the pool, first weights and scale that the run names are counted, so that
nobody but admins decides how much memory a model takes.

Torch is loaded when the first model is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedcore.errors import ConfigError, FactError, ProtocolError
from fedcore.names import PeerId
from p2p.state.bodies import RunFact, read_as
from p2p.state.chain import Entry, Kind
from p2p.state.fold import Fold
from p2p.state.said import Place

if TYPE_CHECKING:
    from fedcore.orderfree import Fact, Model, Origin, Withdrawal


@dataclass
class _Sum:
    """A model, and how many of the run's facts were taken."""

    origin: str
    turn: int
    model: Model
    taken: int = 0
    refused: dict[Place, str] = field(default_factory=dict)


@dataclass
class Models:
    """Models by run, each added up as far as somebody looked."""

    fold: Fold
    _sums: dict[str, _Sum] = field(default_factory=dict)

    def model(self, run: str) -> Model:
        """Return the model of ``run``.

        Raises:
            ConfigError: there is no such run, or it has no such model.
        """
        return self._sum(run).model

    def refused(self, run: str) -> dict[Place, str]:
        """Return which facts of ``run`` were passed over, and why."""
        return dict(self._sum(run).refused)

    def renewed(self, entries: Sequence[Entry], writer: PeerId) -> list[Entry]:
        """Return ``entries`` of a log of ours as another log of ours, ``writer``, says.

        Facts are numbered anew. One that never counted is left out, and so is an
        opening.
        """
        models: dict[str, Model] = {}
        found = []
        for entry in entries:
            if entry.kind == Kind.FACT:
                found += self._renewed(entry, writer, models)
            elif entry.kind != Kind.OPENING:
                found.append(entry)
        return found

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
        origin, turn = view.runs[run].origin, self.fold.turns
        found = self._sums.get(run)
        if found is None or (found.origin, found.turn) != (origin, turn):
            found = self._sums[run] = _Sum(origin, turn, begin(read_origin(origin)))
        places = view.facts.get(run, ())
        for place in places[found.taken :]:
            self._take(found, place)
        found.taken = len(places)
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
            else:
                found.model = apply(found.model, fact, place.writer)
        except ProtocolError as error:
            found.refused[place] = str(error)


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
