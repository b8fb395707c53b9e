"""What the simulator of meshes found in machines, and what it would find."""

import random
from dataclasses import dataclass
from functools import partial

import pytest

from clients.peer.member import Member
from p2p.content.manifest import Manifest
from p2p.identity.keys import Key
from p2p.identity.openings import check_opening
from p2p.machine import Tell, Told
from p2p.members import door
from p2p.members.card import About, Beat, chain_of, new_card
from p2p.members.door import Door
from p2p.members.effects import Admitted
from p2p.members.gossip import Gossip, read_gossip
from p2p.members.judging import Policy
from p2p.members.pulse import TOPIC, Pulse
from p2p.state.replica import Replica
from p2p.state.store import MemoryLogStore
from sims.mesh.faults import Faults
from sims.mesh.place import Place
from sims.mesh.scene import Case, Scene, play
from sims.mesh.scene_door import DoorScene
from sims.mesh.scene_mesh import MeshScene
from sims.mesh.scene_pulse import PulseScene
from sims.mesh.scene_state import StateScene
from sims.mesh.scene_swarm import SwarmScene


def test_one_that_starts_again_hears_of_its_former_self_with_the_same_count():
    """Else two cards with one count, of two starts, hide each other for ever."""
    ann, bob = Key(bytes(32)), Key(bytes([1]) * 32)
    machine = Pulse(ann, About(), lambda _: True, random.Random(1))
    words = []
    for boot, seed in ((b"zzzzzzzz", b"one"), (b"aaaaaaaa", b"two")):
        links = chain_of(seed)
        card = new_card(bob, boot, 0, links[0], About())
        words.append((card, Beat(card.id, 0, links[0])))
    newer, older = sorted(words, key=lambda word: word[0].boot, reverse=True)
    machine.step(1.0, Told(bob.peer, TOPIC, Gossip((newer,)).encode()))
    out = machine.step(3.0, Told(bob.peer, TOPIC, Gossip((older,)).encode()))
    told = [read_gossip(e.body) for e in out if isinstance(e, Tell)]
    boots = {card.boot for gossip in told for card, _ in gossip.words}
    assert newer[0].boot in boots


class Forgetful(MemoryLogStore):
    """Says that all is safe, and keeps what it had at first."""

    def commit(self) -> None:
        if not self._safe.logs:
            super().commit()


@dataclass
class ForgetfulScene(StateScene):
    def build(self, place: Place) -> Replica:
        place.disk.stores.setdefault("log", Forgetful())
        return super().build(place)


class OpenDoor(Door):
    """Lets everyone in who has any opening at all."""

    def _judged(self, peer, proof, challenge):
        self.policy = Policy(known=lambda _: True)
        return super()._judged(peer, proof, challenge)


@dataclass
class OpenDoorScene(DoorScene):
    def build(self, place: Place) -> Door:
        made = super().build(place)
        if place.index not in self.strangers:
            made.__class__ = OpenDoor
        return made


class Dreaming(Pulse):
    """Sees everyone alive whom it ever heard of."""

    def alive(self, now_s):
        return sorted(self._roster.entries)


@dataclass
class DreamingScene(PulseScene):
    def build(self, place: Place) -> Pulse:
        made = super().build(place)
        made.__class__ = Dreaming
        return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "faults", "words"),
    [
        (ForgetfulScene, Faults(crashes=15, loss=0.5), "lacks"),
        (OpenDoorScene, Faults(), "admits"),
        (DreamingScene, Faults(), "ghosts"),
    ],
)
def test_a_bug_planted_in_a_real_machine_is_found(
    scene: type[Scene], faults: Faults, words: str
):
    cases = [Case("planted", seed, minutes=0.4) for seed in range(30)]
    reports = (play(case, lambda: scene(faults=faults)) for case in cases)
    found = next((r.violation.what for r in reports if r.violation), "nothing")
    assert words in found


def believed(_policy, meeting, proof, _now_s):
    """Let in whoever shows an opening, though it be another's."""
    opening, program = (
        check_opening(proof.opening, meeting.network),
        proof.preamble.program,
    )
    peer, boot = meeting.speaker, proof.boot
    return Admitted("admitted", "", peer, opening=opening, boot=boot, program=program)


def broken(seed: int) -> str:
    """Return what is broken in a mesh that nobody disturbs but who lives in it."""
    calm = partial(MeshScene, faults=Faults(), settle_s=60.0)
    found = play(Case("planted", seed, minutes=0.4), calm).violation
    return found.what if found else "nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "where", "name", "planted", "words"),
    [
        (7, Member, "banned", lambda *_: None, "has not turned away"),
        (3, door, "judged", believed, "has let in"),
    ],
)
def test_a_bug_planted_in_a_whole_mesh_is_found(
    seed: int, where: object, name: str, planted: object, words: str, monkeypatch
):
    assert broken(seed) == "nothing"
    monkeypatch.setattr(where, name, planted)
    assert words in broken(seed)


@pytest.mark.slow
def test_chunks_that_nobody_checks_are_found(monkeypatch: pytest.MonkeyPatch):
    """Liars change chunks; a swarm that believed them would end with another blob."""
    liars = Faults(liars=2)
    cases = [Case("planted", seed, nodes=6) for seed in range(12)]
    whole = [play(case, lambda: SwarmScene(faults=liars)) for case in cases]
    assert {report.violation for report in whole} == {None}
    monkeypatch.setattr(Manifest, "fits", lambda *_: True)
    broken = (play(case, lambda: SwarmScene(faults=liars)) for case in cases)
    assert any(r.violation and "another blob" in r.violation.what for r in broken)
