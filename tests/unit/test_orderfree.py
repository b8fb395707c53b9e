"""The order-free model by hand-computed numbers; its laws are tested elsewhere."""

import tracemalloc
from dataclasses import replace

import pytest
import torch

from fedcore.errors import ConfigError, FactError, ProtocolError
from fedcore.orderfree import (
    Fact,
    Model,
    Origin,
    Waiting,
    Withdrawal,
    ahead_of,
    apply,
    begin,
    decode_fact,
    decode_total,
    encode_fact,
    encode_total,
    fact_of,
    folding,
    hash_of,
    head_of,
    join,
    judging,
    learn,
    merge,
    read_snapshot,
    rebase,
    settle,
    snapshot,
    withdraw,
)
from fedcore.params import digest
from fedcore.pool import Pool, direction
from fedcore.ring import ONE
from fedcore.tree import flatten, restore
from tests.orderfree_cases import BASE, ORIGIN, POOL, grown, line, told


def test_the_sum_of_what_peers_add():
    model = grown(anna=[line(1, 2), line(0, 5)], ben=[line(-3)])
    assert model.total().tolist() == [-2, 7, 0, 0, 0, 0, 0, 0]
    assert model.vector() == {"anna": 2, "ben": 1}
    assert model.saturated() == 0


def test_weights_are_the_first_ones_and_scaled_directions():
    model = grown(anna=[line(2 * ONE)], ben=[line(0, -ONE)])
    z = [direction(POOL, k, 11) for k in (0, 1)]
    flat = torch.cat([BASE["a"], BASE["b"].reshape(-1)])
    want = flat - 0.5 * (2 * z[0] - z[1])
    got = model.weights(BASE)
    assert torch.equal(torch.cat([got["a"], got["b"].reshape(-1)]), want)


def test_a_withdrawn_peer_never_was():
    model = grown(anna=[line(1, 2)], ben=[line(-3), line(7)])
    alone = grown(anna=[line(1, 2)])
    out = withdraw(model, "ben")
    assert torch.equal(out.total(), alone.total())
    assert out.registers.keys() == {"anna"}
    assert torch.equal(merge(out, model).total(), alone.total())
    assert torch.equal(merge(model, out).total(), alone.total())
    assert apply(model, Withdrawal(ORIGIN, "ben")).withdrawn == {"ben"}


def test_a_closed_epoch_keeps_the_weights_and_starts_anew():
    model = grown(anna=[line(ONE, -ONE)], ben=[line(0, 0, 5 * ONE)])
    after = rebase(model, {"anna": 1, "ben": 1})
    assert (after.epoch, after.vector(), after.total().any().item()) == (1, {}, False)
    assert digest(after.weights(BASE)) == digest(model.weights(BASE))
    [fact], grown_again = told(after, "anna", line(ONE))
    assert (fact.epoch, fact.seq) == (1, 1)
    assert grown_again.coefficients()[1].tolist() == line(ONE).tolist()
    with pytest.raises(FactError, match="anna: of epoch 1, but 0 is on"):
        apply(model, fact)


def test_a_late_fact_of_a_closed_epoch_is_refused():
    model = grown(anna=[line(1)])
    [late], _ = told(model, "ben", line(9))
    after = rebase(model, {"anna": 1})
    with pytest.raises(FactError, match="ben: of epoch 0, which is over: 1 is on"):
        apply(after, late)


@pytest.mark.parametrize(
    ("cut", "kind", "peer"),
    [
        ({"anna": 3}, "behind", "anna"),
        ({"anna": 1}, "ahead", "anna"),
        ({}, "ahead", "anna"),
        ({"anna": 2, "zoe": 1}, "behind", "zoe"),
    ],
)
def test_a_replica_that_is_not_at_the_cut_does_not_rebase(cut, kind, peer):
    model = grown(anna=[line(1), line(2)])
    with pytest.raises(FactError) as error:
        rebase(model, cut)
    assert (error.value.kind, error.value.peer) == (kind, peer)


def test_a_replica_behind_the_cut_catches_up_by_merging():
    model = grown(anna=[line(1)])
    behind, ahead = model, rebase(model, {"anna": 1})
    assert hash_of(merge(behind, ahead)) == hash_of(ahead) == hash_of(ahead)
    assert hash_of(merge(ahead, behind)) == hash_of(ahead)


def test_two_stories_under_one_number_do_not_merge_until_their_peer_is_out():
    a, b = grown(anna=[line(1)], ben=[line(4)]), grown(anna=[line(2)])
    with pytest.raises(FactError, match="anna: said different things") as error:
        merge(a, b)
    assert error.value.kind == "equivocation"
    a, b = withdraw(a, "anna"), withdraw(b, "anna")
    assert hash_of(merge(a, b)) == hash_of(merge(b, a)) == hash_of(a)


def test_a_register_stops_at_the_reach_and_says_so():
    reach = ORIGIN.reach
    model = grown(anna=[line(reach - 1, 5), line(3, -7)], ben=[line(-2)])
    assert model.registers["anna"].coefficients.tolist()[:2] == [reach, -2]
    assert model.total().tolist()[:2] == [reach - 2, -2]
    assert (model.registers["anna"].clipped, model.saturated()) == (1, 1)
    assert withdraw(model, "anna").saturated() == 0


def test_the_last_fact_of_a_peer_vouches_for_its_register():
    facts, model = told(grown(ben=[line(1)]), "anna", line(1), line(-5, 2))
    got = read_snapshot(snapshot(model)).registers["anna"]
    assert head_of(model.past, "anna", got) == facts[-1].after
    other = replace(got, coefficients=line(-4, 3))
    assert head_of(model.past, "anna", other) != facts[-1].after
    assert head_of(model.past, "ben", got) != facts[-1].after


def test_news_are_the_registers_that_are_ahead():
    model = grown(anna=[line(1), line(2)], ben=[line(3)])
    assert ahead_of(model, {"anna": 1, "ben": 1}).vector() == {"anna": 2}
    assert ahead_of(model, {"ben": 9}).vector() == {"anna": 2}


def test_the_sum_is_exact_before_it_stops():
    """More than 2^63 on the way, in one order, and in range at the end."""
    reach = ORIGIN.reach
    names = [f"p{i:02d}" for i in range(40)]
    up = {name: [line(reach, -reach)] for name in names[:20]}
    down = {name: [line(-reach, reach)] for name in names[20:]}
    one_less = {"q": [line(-1, -1)]}
    assert grown(**up, **down, **one_less).total().tolist()[:2] == [-1, -1]
    high = grown(**up)
    assert high.total().tolist()[:2] == [reach, -reach]
    assert high.saturated() == 2


def test_the_smallest_pool_has_room_for_many_peers():
    pool = Pool(size=2)
    model = begin(Origin(pool, "0" * 64))
    for i in range(9):
        amounts = torch.tensor([model.origin.reach, -model.origin.reach])
        model = apply(model, fact_of(model, f"p{i}", amounts))
    assert model.total().tolist() == [2**60, -(2**60)]
    assert model.saturated() == 2


def test_facts_ahead_of_their_turn_wait():
    facts, full = told(begin(ORIGIN), "anna", line(1), line(2), line(4))
    state = learn(begin(ORIGIN), Waiting(), facts[2])
    state = learn(state.model, state.waiting, facts[1])
    state = learn(state.model, state.waiting, facts[1])
    assert (len(state.waiting), state.model.vector()) == (2, {})
    state = learn(state.model, state.waiting, facts[0])
    assert (len(state.waiting), hash_of(state.model)) == (0, hash_of(full))


def test_waiting_is_bounded():
    facts, _ = told(begin(ORIGIN), "anna", line(1), line(2), line(4), line(8))
    with pytest.raises(FactError, match="more than 2 after 0") as error:
        learn(begin(ORIGIN), Waiting(window=2), facts[3])
    assert error.value.kind == "far"
    held = len(facts[1].indices)
    for room in (Waiting(most=1), Waiting(numbers=held)):
        state = learn(begin(ORIGIN), room, facts[1])
        with pytest.raises(FactError, match="1 facts wait already"):
            learn(state.model, state.waiting, facts[2])


def test_a_lie_that_waits_is_found_out():
    facts, _ = told(begin(ORIGIN), "anna", line(1), line(2))
    forged = replace(facts[1], amounts=facts[1].amounts + 1)
    state = learn(begin(ORIGIN), Waiting(), forged)
    with pytest.raises(FactError, match="something else as number 2"):
        learn(state.model, state.waiting, facts[1])
    state = learn(state.model, state.waiting, facts[0])
    assert [error.kind for error in state.refused] == ["mismatch"]
    assert state.model.vector() == {"anna": 1}
    state = learn(state.model, state.waiting, facts[1])
    assert state.model.vector() == {"anna": 2}


def test_what_waits_of_an_old_epoch_is_in_nobodys_way():
    facts, _ = told(begin(ORIGIN), "anna", line(1), line(2))
    waiting = learn(begin(ORIGIN), Waiting(), facts[1]).waiting
    after = rebase(begin(ORIGIN), {})
    fresh, full = told(after, "anna", line(5), line(6))
    state = learn(after, waiting, fresh[1])
    state = learn(state.model, state.waiting, fresh[0])
    assert (len(state.waiting), hash_of(state.model)) == (0, hash_of(full))


def test_what_waits_is_settled_after_a_merge_and_dropped_after_a_withdrawal():
    facts, full = told(begin(ORIGIN), "anna", line(1), line(2))
    waiting = learn(begin(ORIGIN), Waiting(), facts[1]).waiting
    state = settle(merge(begin(ORIGIN), grown(anna=[line(1)])), waiting)
    assert hash_of(state.model) == hash_of(full)
    state = settle(withdraw(begin(ORIGIN), "anna"), waiting)
    assert len(state.waiting) == 0
    assert [error.kind for error in state.refused] == ["withdrawn"]


def test_a_late_peer_joins_by_a_total_or_a_snapshot():
    model = rebase(grown(anna=[line(ONE, 3)], ben=[line(-7)]), {"anna": 1, "ben": 1})
    _, model = told(model, "cleo", line(0, 0, ONE))
    by_total = join(encode_total(model), BASE, "ben", ORIGIN)
    by_snapshot = join(snapshot(model), BASE, "ben")
    assert by_total.model is None
    assert by_total.total.state == by_snapshot.total.state == hash_of(model)
    for joined in (by_total, by_snapshot):
        assert digest(joined.weights) == digest(model.weights(BASE))


def test_joining_with_other_first_weights_or_another_pool_is_refused():
    data = encode_total(grown(anna=[line(1)]))
    with pytest.raises(ProtocolError, match="ben: built on other first weights"):
        join(data, {**BASE, "a": BASE["a"] + 1}, "ben")
    with pytest.raises(ProtocolError, match="ben: counted in another pool"):
        join(data, BASE, "ben", replace(ORIGIN, pool=Pool(8, seed=4)))
    with pytest.raises(ProtocolError, match="ben: not a message"):
        join(b"FO" + data[3:], BASE, "ben")


def test_a_total_is_short_however_many_peers_there_are():
    peers = {f"p{i}": [line(ONE * i, -3)] for i in range(1, 30)}
    assert len(encode_total(grown(**peers))) < 8 * POOL.size + 110
    assert len(snapshot(grown(**peers))) > 20 * POOL.size


def test_a_model_can_be_kept_in_a_journal():
    model = withdraw(grown(anna=[line(1)], ben=[line(2)]), "ben")
    json, tensors = flatten(model)
    assert hash_of(restore(type(model), json, tensors)) == hash_of(model)


def test_origins_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="no SHA-256"):
        Origin(POOL, "abc")
    for scale in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="scale"):
            Origin(POOL, ORIGIN.base, scale)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        fact_of(begin(ORIGIN), "anna", torch.ones(3, dtype=torch.int64))


def bad_facts():
    """Return what can be wrong with a fact, by the word that it is refused with."""
    facts, model = told(grown(ben=[line(1)]), "anna", line(5), line(6))
    old, good = facts
    _, after = told(model, "anna", line(7))
    third = fact_of(after, "anna", line(8))
    number = fact_of(model, "anna", line(7))
    other_base = replace(ORIGIN, base="f" * 64)
    int64 = torch.int64
    return model, [
        ("peer-name", replace(number, peer="a/b"), None),
        ("peer-type", replace(number, peer=7), None),
        ("mismatch", replace(number, peer="ben", seq=2), None),
        ("signer", number, "ben"),
        ("pool", replace(number, origin=replace(ORIGIN, pool=Pool(8, seed=4))), None),
        ("pool", replace(number, origin=replace(ORIGIN, pool=Pool(16, seed=3))), None),
        ("base", replace(number, origin=other_base), None),
        ("scale", replace(number, origin=replace(ORIGIN, scale=0.5)), None),
        ("origin-type", replace(number, origin="w0"), None),
        ("epoch-new", replace(number, epoch=1), None),
        ("epoch-type", replace(number, epoch=0.0), None),
        ("epoch-type", replace(number, epoch=-1), None),
        ("seq-type", replace(number, seq=0), None),
        ("seq-type", replace(number, seq=True), None),
        ("index", replace(number, indices=torch.tensor([8])), None),
        ("index", replace(number, indices=torch.tensor([-1])), None),
        ("index-type", replace(number, indices=torch.tensor([[0]])), None),
        ("index-type", replace(number, indices=[0]), None),
        ("index", two(number, [1, 0], [1, 1]), None),
        ("index", two(number, [1, 1], [1, 1]), None),
        ("zero", two(number, [0, 1], [7, 0]), None),
        ("amount-type", two(number, [0, 1], [7]), None),
        ("amount-type", replace(number, amounts=torch.tensor([7.0])), None),
        ("nan", replace(number, amounts=torch.tensor([float("nan")])), None),
        ("infinite", replace(number, amounts=torch.tensor([float("inf")])), None),
        ("infinite", replace(number, amounts=torch.tensor([-float("inf")])), None),
        ("range", replace(number, amounts=torch.tensor([ORIGIN.reach + 1])), None),
        ("range", replace(number, amounts=torch.tensor([-(2**63)], dtype=int64)), None),
        ("replayed", good, None),
        ("replayed", old, None),
        ("equivocation", replace(good, after="0" * 64), None),
        ("mismatch", replace(number, amounts=number.amounts + 1), None),
        ("mismatch", replace(number, after="0" * 64), None),
        ("gap", third, None),
    ]


def two(fact: Fact, indices, amounts):
    return replace(fact, indices=torch.tensor(indices), amounts=torch.tensor(amounts))


BAD = bad_facts()[1]


@pytest.mark.parametrize("case", BAD, ids=[f"{i}-{c[0]}" for i, c in enumerate(BAD)])
def test_bad_facts_are_refused_by_name_and_change_nothing(case):
    kind, fact, signer = case
    model, _ = bad_facts()
    before = snapshot(model)
    with pytest.raises(FactError) as error:
        apply(model, fact, signer)
    assert error.value.kind == kind
    assert str(error.value).startswith(f"{error.value.peer}: ")
    if isinstance(fact.peer, str):
        assert fact.peer in error.value.peer
    assert snapshot(model) == before


def test_a_withdrawn_peer_adds_nothing_more():
    model = withdraw(begin(ORIGIN), "anna")
    [fact], _ = told(begin(ORIGIN), "anna", line(1))
    with pytest.raises(FactError, match="anna: was left out") as error:
        apply(model, fact)
    assert error.value.kind == "withdrawn"
    with pytest.raises(FactError, match="left out"):
        fact_of(model, "anna", line(1))


def test_an_author_is_refused_what_others_would_refuse():
    for amounts, kind in [
        (torch.full((8,), float("nan")), "nan"),
        (torch.full((8,), ORIGIN.reach + 1), "range"),
        (torch.full((8,), 0.5), "amount-type"),
    ]:
        with pytest.raises(FactError) as error:
            fact_of(begin(ORIGIN), "anna", amounts)
        assert error.value.kind == kind


def test_models_of_other_origins_or_pasts_do_not_merge():
    model = grown(anna=[line(1)])
    other = begin(replace(ORIGIN, pool=Pool(8, seed=9)))
    with pytest.raises(FactError, match="ben: counted in another pool"):
        merge(model, other, "ben")
    forked = rebase(grown(anna=[line(2)]), {"anna": 1})
    with pytest.raises(FactError, match="ben: epochs before 1 were closed") as error:
        merge(rebase(model, {"anna": 1}), forked, "ben")
    assert error.value.kind == "past"


def test_there_are_only_so_many_peers(monkeypatch):
    monkeypatch.setattr(judging, "PEERS", 2)
    monkeypatch.setattr(folding, "PEERS", 2)
    full = grown(anna=[line(1)], ben=[line(1)])
    with pytest.raises(FactError, match="zoe: there are 2 peers already"):
        told(full, "zoe", line(1))
    assert told(full, "ben", line(2))[1].vector() == {"anna": 1, "ben": 2}
    with pytest.raises(FactError, match="cleo: more than 2 peers"):
        merge(full, grown(zoe=[line(1)]), "cleo")


def test_only_so_many_are_left_out_as_a_snapshot_holds(monkeypatch):
    monkeypatch.setattr(folding, "PEERS", 2)
    out = withdraw(withdraw(begin(ORIGIN), "anna"), "ben")
    assert hash_of(withdraw(out, "ben")) == hash_of(out)
    with pytest.raises(FactError, match="zoe: more than 2 peers"):
        withdraw(out, "zoe")
    with pytest.raises(FactError, match="cleo: more than 2 peers"):
        merge(out, withdraw(begin(ORIGIN), "zoe"), "cleo")


@pytest.mark.parametrize("size", [2, 4])
def test_bits_beyond_a_small_pool_are_refused(size):
    model = begin(Origin(Pool(size), "0" * 64))
    fact = fact_of(model, "anna", torch.arange(1, size + 1))
    data = bytearray(encode_fact(fact))
    at = data.rindex(bytes([(1 << size) - 1]))  # a bit for each coefficient
    data[at] ^= 1 << (size - 1) | 0x80  # one for another, beyond the pool
    with pytest.raises(ProtocolError, match="place that is not in 0"):
        decode_fact(bytes(data))
    with pytest.raises(ProtocolError, match="place that is not in 0"):
        encode_fact(replace(fact, indices=fact.indices - 1))


def test_many_epochs_take_little_memory_to_read():
    origin = Origin(Pool(2), "0" * 64)
    closed = torch.zeros(3000, 2, dtype=torch.int64)
    data = encode_total(Model(origin, closed, "0" * 64))
    tracemalloc.start()
    try:
        decode_total(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 * len(data)
    at = data.index(bytes([0xB9, 0x17]))  # 3001 epochs
    with pytest.raises(ProtocolError, match=r"3\d+ epochs in 9003 bytes"):
        decode_total(data[:at] + bytes([0xFF, 0x17]) + data[at + 2 :])


def test_statistics_of_a_model_stay_as_they_are():
    base = {**BASE, "n": torch.tensor(7)}
    origin = Origin(POOL, digest(base))
    model = apply(begin(origin), fact_of(begin(origin), "anna", line(ONE)))
    joined = join(snapshot(model), base, "ben", frozen=["n"])
    assert joined.weights["n"].item() == 7
    assert not torch.equal(joined.weights["a"], base["a"])


def test_a_fact_of_200_numbers_is_short():
    pool = Pool(size=1024)
    model = begin(Origin(pool, "0" * 64))
    amounts = torch.zeros(1024, dtype=torch.int64)
    amounts[::5] = ONE // 3  # 205 numbers of 4 bytes each
    data = encode_fact(fact_of(model, "peer-000001", amounts))
    word = len(pool.word()) + 1
    assert len(data) == 4 + word + 32 + 8 + 1 + 12 + 1 + 32 + 2 + 128 + 1 + 4 * 205
