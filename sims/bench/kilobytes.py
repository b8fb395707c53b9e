"""What strategies with shared seeds put on the wire, through our codec.

Names, heads and checksums are counted; the first model is not: it goes out once. The
papers' sizes are their tensors alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fedcore.codec import encode_updates, encode_work
from fedcore.params import Params
from fedcore.seeds import signs
from fedcore.strategy import Strategy, Update
from sims.bench.frame import Row, versus
from strategies.fedavg import FedAvg
from strategies.fedkseed import FedKSeed, FedKSeedPro
from strategies.ferret import Ferret
from strategies.mezo import MeZO
from strategies.one_byte import OneByte

STEPS = 200
LAYERS = 20  # of a million weights each


@dataclass(frozen=True, slots=True)
class Wire:
    """Bytes of one client and round.

    Attributes:
        down: of the work without the first model.
        up: of the answer.
    """

    down: int
    up: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A strategy, and what its paper sends in the same place.

    Attributes:
        rules: the strategy.
        both: the way down counts, too.
        paper_bytes: of the paper.
        told: where that is from.
    """

    rules: Strategy[Any]
    both: bool
    paper_bytes: int
    told: str


CLAIMS: Mapping[str, Claim] = {
    "fedkseed, K = 4096": Claim(
        FedKSeed(size=4096, steps=STEPS), True, 17_984, "4 K down, 8 a step up"
    ),
    "fedkseed, K = 1024": Claim(
        FedKSeed(size=1024, steps=STEPS), True, 5_696, "4 K down, 8 a step up"
    ),
    "fedkseed-pro, K = 1024": Claim(
        FedKSeedPro(size=1024, steps=STEPS), True, 5_696, "as fedkseed"
    ),
    "one-byte, up": Claim(
        OneByte(steps=STEPS), False, 20 * STEPS, "its program: JSON, about 20 a step"
    ),
    "mezo, up": Claim(MeZO(steps=STEPS), False, 4 * STEPS, "its scalars, 4 a step"),
    "ferret, up": Claim(
        Ferret(budget=4096, steps=1),
        False,
        8 * 4096,
        "as many, each with its seed",
    ),
}


def rows() -> Iterator[Row]:
    """Yield the bytes of every strategy beside its paper's and beside FedAvg's."""
    model = {f"layer{i}": torch.zeros(1000, 1000) for i in range(LAYERS)}
    work = f"{STEPS} steps, {LAYERS} M weights"
    fedavg = wire_of(FedAvg(), model)
    for name, claim in CLAIMS.items():
        wire = wire_of(claim.rules, model)
        ours = wire.up + wire.down * claim.both
        note = f"theirs: {claim.told}; ours {wire.down} B down, {wire.up} B up"
        paper = claim.paper_bytes / 1e3
        yield versus(f"{name}, vs its paper", work, ours / 1e3, paper, "kB", note)
        whole = (fedavg.up + fedavg.down * claim.both) / 1e3
        yield versus(f"{name}, vs fedavg", work, ours / 1e3, whole, "kB")


def wire_of(rules: Strategy[Any], model: Params) -> Wire:
    """Return what a client of ``rules`` gets and sends in the first round."""
    work = rules.work(rules.init(model), "peer-000000")
    asked = replace(work, params={}) if "base" in work.hints else work
    full = {
        name: t if t.dtype == torch.uint8 else signs(1, {name: t})[name]
        for name, t in rules.expects(work).items()
    }
    told = {"loss": 1.5, "steps": float(work.steps or 1)}
    answer = Update("peer-000000", 0, full, 100, told)
    return Wire(len(encode_work(asked)), len(encode_updates([answer])))
