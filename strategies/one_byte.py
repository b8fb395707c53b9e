"""Just One Byte: a peer sends one byte for each step it took, and nothing else.

Source:
    Zelikman et al., "Just One Byte (per gradient): A Note on Low-Bandwidth
    Decentralized Language Model Finetuning Using Shared Randomness", 2023.
    https://arxiv.org/abs/2306.10015

Notation, paper -> here:
    seed(iter, sample, machine)   the direction of a step, drawn by ``drawn(version,
                                  peer, step)`` from the pool
    projected gradient            g, see ``strategies.probing``
    one byte                      ``fedcore.onebyte``

Which direction a step took follows from the pool, the round, the peer and the step,
so everybody can draw it again, and only the byte of its scalar is sent.

Departures:
    The directions are those of a fixed pool of K, so the model is K integers, and
    late joiners need no log. The byte is rounded at random so that its mean is g; the
    paper's rounds to the nearest, and its released code never sends it. A peer walks
    by what its bytes say, not by what it measured, as all others will.
    Peers take ``steps`` local steps between exchanges and their sums are averaged by
    examples; the paper's peers stay where they are and divide by the root of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedcore import onebyte
from fedcore.errors import ProtocolError
from fedcore.params import Params
from fedcore.ring import ONE
from fedcore.strategy import PeerId, Update, Work
from strategies.limits import counts
from strategies.probing import Probing
from strategies.seeded import (
    Seeded,
    divided,
    drawn,
    folded,
    held_within,
    indices,
    spread,
    turn_of,
)

MOST_SUM = (1 << 62) - 1  # a sum times its weight, on the ring


@dataclass(frozen=True, slots=True)
class OneByte(Probing):
    """Move along shared directions by what the peers' bytes say on average.

    Attributes:
        steps: probes per peer and round, >= 1; each is one byte.
        sigma: the middle of the sizes that a byte can tell: those from ``sigma / 1448``
            to ``sigma * 1448``, 12 % apart. A power of two, 2^-16 .. 2^19.
    """

    steps: int = 100
    sigma: float = 1.0
    needs: ClassVar[Literal["each"]] = "each"
    told: ClassVar[tuple[str, ...]] = ("turn",)  # says which directions were drawn

    def __post_init__(self) -> None:
        Probing.__post_init__(self)
        counts(1, steps=self.steps)
        self.check_probes(self.steps)
        onebyte.decode(torch.zeros(0, dtype=torch.uint8), self.sigma)  # checks it

    def init(self, params: Params) -> Seeded:
        return self.start(params)

    def work(self, state: Seeded, peer: PeerId) -> Work:
        hints = self.asked(state.version, state.pool, "bytes")
        return Work(
            *(state.version, state.base, self.steps),
            aux={"coefficients": state.coefficients},
            hints={**hints, "base": state.base_id, "sigma": self.sigma},
        )

    def expects(self, work: Work) -> Params:
        count = (work.steps or self.steps) * self.directions
        return {"bytes": torch.zeros(count, dtype=torch.uint8)}

    def apply(self, state: Seeded, updates: Sequence[Update]) -> Seeded:
        read = [self._read(state, u) for u in updates]
        after = folded(state, [u for u, _ in read], self.rotate)
        return replace(after, cut=after.cut + sum(cut for _, cut in read))

    def _read(self, state: Seeded, update: Update) -> tuple[Update, int]:
        """Return ``update`` as sums for each direction, and how much was cut short."""
        codes = update.payload["bytes"]
        if codes.ndim != 1 or len(codes) % self.directions:
            raise ProtocolError(
                f"{update.peer}: bytes of shape {tuple(codes.shape)}, not "
                f"{self.directions} for each step"
            )
        amounts, cut = meant(codes, self.sigma, self.clip, self.share(update.version))
        asked = (update.peer, update.version, turn_of(update))
        random = drawn(state.pool, *asked, len(codes))
        line = spread(indices(random, self.size), amounts, self.size)
        line, more = held_within(line, MOST_SUM // update.examples)
        payload = {"coefficients": line * update.examples}
        return replace(update, payload=payload), cut + more


def meant(codes: Tensor, sigma: float, clip: float, share: int) -> tuple[Tensor, int]:
    """Return how far each byte moves the model, and how many were cut short.

    Honest scalars are within ``clip`` before they become bytes, and a byte may stand
    for the next larger size, 12 % above.

    Returns:
        int64 (n,) in units of 2^-32, divided by ``share``; and a count.
    """
    held, cut = held_within(onebyte.decode(codes, sigma), int(clip * ONE * 9 / 8))
    return divided(held, share), cut
