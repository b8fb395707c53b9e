"""Hand-computed clocks. One work is 4 numbers of 4 bytes each way: 16 bytes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf

import pytest
import torch

from clients.trainers.sgd import SGD
from fedcore.coordinator import Coordinator, Rules, Sent, coordinate
from fedcore.errors import ConfigError, QuorumError
from fedcore.pacing import Buffered, Synchronous
from fedcore.params import digest
from fedcore.rounds import run_rounds
from fedcore.seeds import seed_of
from fedcore.strategy import Update, Work, peer_name
from sims.line import Line
from sims.world.availability import Dropout, Markov, Span
from sims.world.network import Uniform
from sims.world.site import Site
from sims.world.virtual import VirtualLink
from strategies.fedavg import FedAvg

SPEEDS = {"peer0": 1.0, "peer1": 2.0, "peer2": 10.0}


def nudge(task: Line, work: Work, peer: str) -> Update:
    """Move the model by numbers that depend on the peer and the version only."""
    step = seed_of("nudge", peer, work.version) / 2**64 - 0.5
    payload = {name: torch.full_like(t, step) for name, t in work.params.items()}
    return Update(peer, work.version, payload, task.examples)


def work(start, steps=3, version=0) -> Work:
    return Work(version, start, steps)


@dataclass(frozen=True)
class Hours:
    """Scripted hours, for tests."""

    by_peer: dict[str, list[Span]]
    gives_up_at: dict[str, float] = field(default_factory=dict)

    def spans(self, site: Site) -> Iterator[Span]:
        return iter(self.by_peer.get(site.peer, [(0.0, inf)]))

    def gives_up(self, site: Site, now_s: float) -> float | None:
        return self.gives_up_at.get(site.peer)


def test_answers_come_in_order_of_time_then_name(start, tasks):
    link = VirtualLink(nudge, tasks, {"peer0": 5.0, "peer1": 2.0, "peer2": 5.0})
    assert list(link.idle()) == ["peer0", "peer1", "peer2"]
    for peer in ("peer2", "peer0", "peer1"):
        link.send(peer, work(start))
    assert [u.peer for u in link.receive(inf).updates] == ["peer1"]
    assert link.now_s() == 6.0
    assert [u.peer for u in link.receive(inf).updates] == ["peer0", "peer2"]
    assert link.now_s() == 15.0
    assert list(link.idle()) == ["peer0", "peer1", "peer2"]


def test_download_compute_and_upload_add_up(start, tasks):
    network = Uniform(latency_s=0.5, up_bytes_per_s=4.0, down_bytes_per_s=16.0)
    link = VirtualLink(nudge, tasks, SPEEDS, network)
    link.send("peer1", work(start))
    assert link.receive(inf).updates[0].peer == "peer1"
    # 0.5 + 16/16 down, 3 steps of 2, 0.5 + 16/4 up
    assert link.now_s() == 1.5 + 6.0 + 4.5
    assert (link.down_bytes, link.up_bytes) == (16, 16)


def test_the_answer_that_arrives_first_comes_first_though_it_was_ready_later(
    start, tasks
):
    def bulky(task, given, peer):
        size = 400 if peer == "peer0" else 1
        return Update(peer, given.version, {"weight": torch.zeros(size)}, 1)

    network = Uniform(latency_s=0.0, up_bytes_per_s=16.0, down_bytes_per_s=inf)
    link = VirtualLink(bulky, tasks, {"peer0": 1.0, "peer1": 2.0}, network)
    for peer in ("peer0", "peer1"):
        link.send(peer, work(start, steps=1))
    seen = [(link.receive(inf).updates[0].peer, link.now_s()) for _ in range(2)]
    assert seen == [("peer1", 2.25), ("peer0", 101.0)]
    assert link.up_bytes == 1600 + 4


def test_epochs_are_counted_in_the_task_s_own_steps(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS)
    link.send("peer1", Work(0, start, steps=0, epochs=4))
    link.receive(inf)
    assert link.now_s() == 4 * Line.epoch_steps * 2.0


def test_a_deadline_passes_without_answers(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS)
    link.send("peer0", work(start))
    assert link.receive(2.5).updates == ()
    assert link.now_s() == 2.5
    assert len(link.receive(3.0).updates) == 1  # an answer at the deadline counts


def test_nothing_is_computed_before_it_is_needed_and_then_all_together(start, tasks):
    batches = []

    class Noting:
        def run(self, jobs):
            batches.append([job.peer for job in jobs])
            return [nudge(tasks[job.peer], job.work, job.peer) for job in jobs]

    link = VirtualLink(Noting(), tasks, {"peer0": 1.0, "peer1": 1.5, "peer2": 9.0})
    for peer in tasks:
        link.send(peer, work(start, 1))
    link.receive(0.5)
    assert batches == []
    link.receive(inf)
    assert batches == [["peer0", "peer1", "peer2"]]
    link.send("peer0", work(start, 1))
    link.receive(inf)
    link.send("peer1", work(start, 1))
    assert len(batches) == 1  # two are out again, neither is due
    link.receive(inf)
    assert batches[1:] == [["peer0", "peer1"]]


def test_no_more_answers_than_asked_for_are_computed_together(start, tasks):
    sizes = []

    class Noting:
        def run(self, jobs):
            sizes.append(len(jobs))
            return [nudge(tasks[job.peer], job.work, job.peer) for job in jobs]

    link = VirtualLink(Noting(), tasks, SPEEDS, ahead=2)
    for peer in tasks:
        link.send(peer, work(start, 1))
    seen = [link.receive(inf).updates[0].peer for _ in range(3)]
    assert (seen, sizes) == (["peer0", "peer1", "peer2"], [2, 1])


def test_a_peer_that_goes_offline_is_lost_at_that_moment_and_comes_back(start, tasks):
    hours = Hours({"peer1": [(0.0, 5.0), (8.0, inf)]})
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    for peer in ("peer1", "peer2"):
        link.send(peer, work(start))
    assert link.receive(inf).lost == {"peer1": "went offline"}
    assert link.now_s() == 5.0
    assert list(link.idle()) == ["peer0"]
    link.receive(8.0)
    assert list(link.idle()) == ["peer0", "peer1"]


def test_an_answer_that_arrives_as_the_peer_leaves_counts(start, tasks):
    hours = Hours({"peer1": [(0.0, 6.0)]})
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    link.send("peer1", work(start))
    assert link.receive(inf).updates[0].peer == "peer1"
    assert "peer1" not in link.idle()


def test_a_peer_that_leaves_while_its_answer_travels_is_lost(start, tasks):
    hours = Hours({"peer1": [(0.0, 7.0)]})
    network = Uniform(0.0, up_bytes_per_s=4.0, down_bytes_per_s=inf)
    link = VirtualLink(nudge, tasks, SPEEDS, network, hours)
    link.send("peer1", work(start))  # ready at 6, would arrive at 10
    assert link.receive(inf).lost == {"peer1": "went offline"}
    assert (link.now_s(), link.up_bytes) == (7.0, 0)


def test_a_peer_that_gives_up_is_lost_in_the_middle_and_idle_again(start, tasks):
    hours = Hours({}, {"peer1": 0.25})
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    link.send("peer1", work(start, 4))
    assert link.receive(inf).lost == {"peer1": "gave up"}
    assert link.now_s() == 2.0
    assert "peer1" in link.idle()


def test_lost_messages_are_given_up_after_the_notice_time(start, tasks):
    reasons = {}
    for seed in range(40):
        network = Uniform(0.0, inf, inf, loss=0.5, notice_s=7.0)
        link = VirtualLink(nudge, tasks, SPEEDS, network, seed=seed)
        link.send("peer1", work(start))
        reason = "".join(link.receive(inf).lost.values())
        reasons.setdefault(reason, set()).add(link.now_s())
    assert reasons == {
        "": {6.0},
        "the work was lost on its way": {7.0},
        "the answer was lost on its way": {13.0},
    }


def test_with_nobody_online_the_clock_goes_to_the_next_coming(tasks):
    hours = Hours({p: [(10.0 * (i + 1), inf)] for i, p in enumerate(tasks)})
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    assert list(link.idle()) == []
    link.receive(inf)
    assert (link.now_s(), list(link.idle())) == (10.0, ["peer0"])


def test_peers_that_come_online_are_no_news_while_the_pacer_leaves_some_idle(
    start, tasks
):
    hours = Hours({"peer2": [(1.0, inf)]})
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    link.send("peer0", work(start))
    link.receive(inf)
    assert link.now_s() == 3.0  # peer1 was left idle: no stop at 1.0
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    for peer in ("peer0", "peer1"):
        link.send(peer, work(start))
    link.receive(inf)
    assert (link.now_s(), list(link.idle())) == (1.0, ["peer2"])


def test_what_can_never_happen_is_said(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS)
    with pytest.raises(QuorumError, match="nobody is at work"):
        link.receive(inf)
    gone = VirtualLink(nudge, tasks, availability=Hours(dict.fromkeys(tasks, ())))
    assert list(gone.idle()) == []
    gone.receive(9.0)
    with pytest.raises(QuorumError):
        gone.receive(inf)


def test_a_pacer_that_waits_for_more_peers_than_there_are_is_ended(start, tasks):
    with pytest.raises(QuorumError):
        coordinate(
            FedAvg(steps=1),
            Synchronous(cohort=4, quorum=4),
            VirtualLink(nudge, tasks, SPEEDS),
            start,
            rounds=1,
        )


def test_work_for_a_peer_that_is_not_idle_is_refused(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS)
    link.send("peer0", work(start))
    for peer in ("peer0", "stranger"):
        with pytest.raises(ConfigError, match=peer):
            link.send(peer, work(start))
    with pytest.raises(ConfigError, match="at least one peer"):
        VirtualLink(nudge, {})
    with pytest.raises(ConfigError, match="ahead"):
        VirtualLink(nudge, tasks, ahead=0)


def test_synchronous_rounds_are_the_reference_loop_and_wait_for_the_slowest(
    start, tasks
):
    link = VirtualLink(SGD(lr=0.05), tasks, SPEEDS)
    got = coordinate(FedAvg(steps=3), Synchronous(cohort=3), link, start, rounds=5)
    want = run_rounds(FedAvg(steps=3), SGD(lr=0.05), tasks, start, rounds=5)
    assert digest(got.params) == digest(want.params)
    assert link.now_s() == 5 * 3 * 10.0


def test_buffered_rounds_by_hand(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS)
    coordinate(FedAvg(steps=1), Buffered(size=2), link, start, rounds=3)
    # answers: peer0 at 1, 2, 3, 4; peer1 at 2, 4: folds at 2, 3, 4
    assert link.now_s() == 4.0


def test_a_round_with_patience_goes_on_without_the_slowest(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS)
    pacer = Synchronous(cohort=3, patience_s=7.0)
    state = coordinate(FedAvg(steps=3), pacer, link, start, rounds=1)
    assert (state.version, link.now_s()) == (1, 7.0)


def test_a_lossy_churning_federation_repeats_itself(start):
    tasks = {f"peer{i:02d}": Line(i) for i in range(20)}

    def run(seed):
        link = VirtualLink(
            nudge,
            tasks,
            network=Uniform(0.1, 100.0, 200.0, loss=0.1, notice_s=3.0),
            availability=Markov(40.0, 20.0, dropout=0.1),
            seed=seed,
        )
        state = coordinate(FedAvg(steps=2), Buffered(size=5), link, start, 20)
        return digest(state.params), link.now_s(), link.down_bytes

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_every_work_ends_later_than_it_began_however_late_it_is(start, tasks):
    link = VirtualLink(nudge, tasks, SPEEDS, availability=Dropout(1.0))
    link.resume({}, 1e12)
    for _ in range(5):
        began = link.now_s()
        link.send("peer0", work(start, 1))
        link.receive(inf)
        assert link.now_s() > began


def test_ten_thousand_peers_are_made_only_when_they_work(start):
    made = count()

    class Lazy(dict):
        def __getitem__(self, peer):
            next(made)
            return Line(0)

    peers = Lazy.fromkeys(f"peer{i:05d}" for i in range(10_000))
    link = VirtualLink(nudge, peers)
    coordinate(FedAvg(steps=1), Synchronous(cohort=3), link, start, rounds=2)
    assert next(made) <= 2 * 2 * 3


def test_resuming_continues_the_works_that_were_out(start, tasks):
    hours = Hours({"peer2": [(0.0, 12.0)]})
    link = VirtualLink(nudge, tasks, SPEEDS, availability=hours)
    sent = {"peer1": Sent(work(start), 1.0), "peer2": Sent(work(start), 2.0)}
    link.resume(sent, 4.0)
    assert (link.now_s(), list(link.idle())) == (4.0, ["peer0"])
    assert link.receive(inf).updates[0].peer == "peer1"
    assert link.now_s() == 7.0
    assert link.receive(inf).lost == {"peer2": "went offline"}
    assert link.now_s() == 12.0


def test_a_pacer_with_more_to_fold_is_not_taken_for_one_that_waits(start):
    """Forty answers of one instant, folded one by one, all at that instant."""
    tasks = {peer_name(i): Line(seed=i) for i in range(40)}
    link, times = VirtualLink(nudge, tasks, dict.fromkeys(tasks, 2.0)), []

    def watch(fold):
        times.extend([fold.now_s] * bool(fold.folded))

    rules = Rules(FedAvg(steps=3), Buffered(size=1))
    Coordinator(rules, link, watch=watch).run(start, 40)
    assert times == [6.0] * 40
