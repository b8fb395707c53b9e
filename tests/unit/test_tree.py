from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan, nan
from typing import Any, Generic, Literal, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedcore.checkpoint import pack, unpack
from fedcore.desk import Desk, Event, Heard, Idle, Sent
from fedcore.errors import ConfigError, StorageError
from fedcore.gate import Refusal
from fedcore.hints import hint_of
from fedcore.pacing import Waiting
from fedcore.params import digest
from fedcore.strategy import Update, Work
from fedcore.tree import flatten, restore
from strategies.fedavg import Model

Inner = TypeVar("Inner")


@dataclass(frozen=True)
class Point:
    x: float
    name: str | None = None


@dataclass(frozen=True)
class Other:
    x: float
    name: str | None = None


@dataclass(frozen=True)
class Wrapped(Generic[Inner]):
    inner: Inner
    more: Mapping[str, Inner] = field(default_factory=dict)


@dataclass(frozen=True)
class Positive:
    x: int

    def __post_init__(self) -> None:
        if self.x <= 0:
            raise ValueError("x must be > 0")


def round_trip(hint: object, value: object) -> Any:
    return restore(hint, *flatten(value))


def test_a_structure_is_plain_json() -> None:
    value = (Point(inf), {"a": 1}, frozenset({3, 2}), None, True, torch.ones(2))
    json, tensors = flatten(value)
    assert json == [
        {"Point": {"x": {"float": "inf"}, "name": None}},
        {"map": [["a", 1]]},
        {"set": [2, 3]},
        None,
        True,
        {"tensor": "0"},
    ]
    assert tensors["0"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 2**70),
        (float, -0.1),
        (float, -inf),
        (float, 3),
        (bool, True),
        (str, "ü\x00"),
        (None, None),
        (int | None, None),
        (int | float | str, 1),
        (int | float | str, 1.0),
        (int | float | str, "1"),
        (int | float | str, inf),
        (tuple[int, ...], ()),
        (tuple[int, str], (1, "a")),
        (Sequence[Point], (Point(1.5), Point(2.0, "b"))),
        (Mapping[int, frozenset[str]], {3: frozenset("ab"), 1: frozenset()}),
        (Literal["sum", "each"], "each"),
        (Point | Other, Other(1.0)),
        (Wrapped[Point], Wrapped(Point(0.0), {"k": Point(1.0)})),
    ],
)
def test_a_value_comes_back_the_same(hint: object, value: object) -> None:
    back = round_trip(hint, value)
    assert back == value
    assert type(back) is type(value)


def test_nan_and_the_order_of_a_mapping_come_back() -> None:
    assert isnan(round_trip(float, nan))
    assert list(round_trip(Mapping[str, int], {"b": 1, "a": 2})) == ["b", "a"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([nan, -0.0, inf], dtype=torch.float16),
        torch.tensor([1.5], dtype=torch.bfloat16),
    ],
)
def test_a_tensor_comes_back_bit_for_bit(tensor: Tensor) -> None:
    back = unpack("x", Tensor, pack("x", tensor))
    assert digest({"": back}) == digest({"": tensor})


def test_one_object_comes_back_as_one_object() -> None:
    t = torch.ones(3)
    json, tensors = flatten((t, t))
    assert len(tensors) == 1
    a, b = restore(tuple[Tensor, ...], json, tensors)
    assert a is b


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Mapping[str, Tensor | None], {"a": torch.ones(1)}),
        (Mapping[str, Tensor | None], {"a": torch.ones(1), "b": None}),
        (Mapping[int, Tensor], {3: torch.ones(1)}),
        (Mapping[str, Mapping[str, Tensor]], {"a": {"w": torch.ones(1)}, "b": {}}),
    ],
)
def test_mappings_of_tensors_of_every_kind_come_back(hint: object, value: Any) -> None:
    assert round_trip(hint, value) == value


class Lazy(Mapping[str, Tensor]):
    """Makes its tensors when asked; each is gone before the next is made."""

    def __getitem__(self, name: str) -> Tensor:
        return torch.full((2,), float(name))

    def __iter__(self) -> Iterator[str]:
        return iter(map(str, range(20)))

    def __len__(self) -> int:
        return 20


def test_tensors_made_on_the_fly_are_not_taken_for_one_another() -> None:
    back = round_trip(Mapping[str, Tensor], Lazy())
    assert [t.tolist() for t in back.values()] == [[float(i)] * 2 for i in range(20)]


def test_views_of_one_memory_can_be_stored() -> None:
    whole = torch.arange(6.0)
    value = {"whole": whole, "head": whole[:3], "shaped": whole.view(2, 3)}
    back = unpack("x", Mapping[str, Tensor], pack("x", value))
    assert digest(back) == digest(value)


@pytest.mark.parametrize(
    ("hint", "json"),
    [
        (int, "1"),
        (int, True),
        (int, 1.0),
        (float, "1"),
        (float, {"float": "1e3"}),
        (str, None),
        (bool, 1),
        (None, 0),
        (int | str, 1.5),
        (Literal["a"], "b"),
        (Tensor, {"tensor": "9"}),
        (Tensor, {"tensor": 0}),
        (Mapping[str, Tensor], {"params": [0]}),
        (Mapping[str, Tensor], {"params": [0, {"w": "9"}]}),
        (Mapping[str, Tensor], {"params": {"w": "0"}}),
        (Mapping[str, int], {"params": [0, {"w": "0"}]}),
        (tuple[int, ...], {"map": []}),
        (tuple[int, int], [1]),
        (Mapping[str, int], {"map": [["a", 1], ["a", 2]]}),
        (Mapping[str, int], {"map": [["a"]]}),
        (Mapping[str, int], {"map": [], "set": []}),
        (frozenset[int], [1]),
        (Point, {"Other": {"x": 1.0, "name": None}}),
        (Point, {"Point": {"x": 1.0}}),
        (Point, {"Point": {"x": 1.0, "name": None, "z": 1}}),
        (Point, {"Point": 1}),
        (Positive, {"Positive": {"x": 0}}),
    ],
)
def test_what_does_not_fit_the_hint_is_refused(hint: object, json: Any) -> None:
    with pytest.raises(StorageError):
        restore(hint, json, {"0": torch.ones(1)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["map", "set", "tensor", "Heard", "Idle", "peers"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(JSON)
def test_any_json_is_read_or_refused(json: Any) -> None:
    for hint in (Event, Desk[Model, Waiting], Mapping[str, float]):
        try:
            back = restore(hint, json, {})
        except StorageError:
            continue
        assert restore(hint, *flatten(back)) == back


@pytest.mark.parametrize("value", [object(), {1, 2}, Point, b"x", 1j])
def test_what_cannot_be_stored_is_named(value: object) -> None:
    with pytest.raises(ConfigError, match=r"Wrapped\.inner is a"):
        flatten(Wrapped(value))


@pytest.mark.parametrize("hint", [Any, object, list, Wrapped])
def test_a_vague_hint_is_refused(hint: object) -> None:
    with pytest.raises((ConfigError, StorageError)):
        restore(hint, {"Wrapped": {"inner": 1, "more": {"map": []}}}, {})


def test_the_hint_of_an_example_has_its_arguments() -> None:
    assert hint_of(Point(1.0)) is Point
    assert hint_of(Wrapped(Wrapped(Point(1.0)))) == Wrapped[Wrapped[Point]]
    desk = Desk(Model(0, {}), Waiting())
    assert hint_of(desk) == Desk[Model, Waiting]


def full_desk() -> Desk[Model, Waiting]:
    params = {"w": torch.arange(4.0), "b": torch.tensor(0.5)}
    update = Update("p1", 3, {"w": torch.ones(4)}, 7, {"loss": 0.25, "steps": 2})
    work = Work(3, params, 2, 1, {"c": torch.zeros(2)}, {"k": 1, "s": "x", "f": 0.1})
    pace = Waiting(frozenset({"p2", "p1"}), (update,), 3, 1, True, 12.5)
    sent = {"p2": Sent(work, 1.0), "p1": Sent(work, 2.0)}
    return Desk(Model(3, params), pace, sent, 42, 99.5, asked=True)


def test_a_desk_comes_back_and_shares_what_it_shared() -> None:
    desk = full_desk()
    data = pack("desk", desk)
    back = unpack("desk", Desk[Model, Waiting], data)
    assert pack("desk", back) == data
    assert back.sent["p1"].work.params is back.state.params
    assert list(back.sent) == ["p2", "p1"]
    assert back.pace.working == desk.pace.working
    assert back.pace.kept[0].metrics == desk.pace.kept[0].metrics


def test_events_come_back() -> None:
    idle = Idle(("p1", "p2"), 1.5)
    refused = (Refusal("p3", "nan", "it is NaN", True),)
    heard = Heard((), refused, {"p4": "hung up"}, inf)
    for event in (idle, heard):
        assert unpack("event", Event, pack("event", event)) == event
