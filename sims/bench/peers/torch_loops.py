"""What one would write without a framework: four loops in plain torch.

``loop``: one client after the other, tuned: one gather per client, gradients by
``torch.autograd.grad``, one fused update. ``vmap``: the whole cohort at once by
``torch.func``. ``loop-2`` and ``vmap-2``: the same in two forked processes, weights
and sums in shared memory.
"""

import mmap
import os
import sys

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sims.bench.case import Case, Ints, Weights
from sims.bench.peers.nets import first, net, plain, shaped
from sims.bench.peers.wire import Engine, serve, timed


class Trainer:
    """Trains some clients from shared weights and sums what they became."""

    def __init__(self, case: Case) -> None:
        self.case = case
        data = shaped(case)
        self.x, self.y = torch.from_numpy(data.x), torch.from_numpy(data.y)
        self.model = net(case.model)
        self.own: list[Tensor] = list(self.model.parameters())
        self.draw = torch.Generator().manual_seed(1)

    def gather(self, client: int) -> tuple[Tensor, Tensor]:
        """Return the client's rows in a new random order, once per epoch."""
        mine = torch.from_numpy(self.case.rows_of(client, len(self.x)))
        orders = [
            mine[torch.randperm(len(mine), generator=self.draw)]
            for _ in range(self.case.epochs)
        ]
        return self.x[torch.cat(orders)], self.y[torch.cat(orders)]

    def sizes(self) -> list[int]:
        """Return the batch sizes of one work."""
        full, rest = divmod(self.case.rows, self.case.batch)
        return ([self.case.batch] * full + [rest] * bool(rest)) * self.case.epochs

    def sum(self, clients: Ints, start: list[Tensor], total: list[Tensor]) -> None:
        """Add the trained weights of ``clients`` to ``total``."""
        for client in clients:
            x, y = self.gather(int(client))
            with torch.no_grad():
                torch._foreach_copy_(self.own, start)
            sizes = self.sizes()
            batches = zip(torch.split(x, sizes), torch.split(y, sizes), strict=True)
            for bx, by in batches:
                loss = cross_entropy(self.model(bx), by)
                grads = torch.autograd.grad(loss, self.own)
                with torch.no_grad():
                    torch._foreach_add_(self.own, list(grads), alpha=-self.case.lr)
            with torch.no_grad():
                torch._foreach_add_(total, self.own)


class Stacked(Trainer):
    """The same, all clients at once."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        names = [n for n, _ in self.model.named_parameters()]

        def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
            named = dict(zip(names, weights, strict=True))
            return cross_entropy(torch.func.functional_call(self.model, named, x), y)

        self.step = torch.func.vmap(torch.func.grad(loss))

    def sum(self, clients: Ints, start: list[Tensor], total: list[Tensor]) -> None:
        """Add the trained weights of ``clients`` to ``total``."""
        parts = [self.gather(int(c)) for c in clients]
        x, y = (torch.stack(p) for p in zip(*parts, strict=True))
        with torch.no_grad():
            weights = [w.expand(len(clients), *w.shape).clone() for w in start]
            sizes = self.sizes()
            xs, ys = (torch.split(t, sizes, 1) for t in (x, y))
            for bx, by in zip(xs, ys, strict=True):
                grads = self.step(weights, bx, by)
                torch._foreach_add_(weights, list(grads), alpha=-self.case.lr)
            torch._foreach_add_(total, [w.sum(0) for w in weights])


class Alone:
    """All clients of a round in this process."""

    def __init__(self, case: Case, trainer: Trainer) -> None:
        self.case, self.trainer = case, trainer
        self.now = list(first(case.model).values())
        self.names = list(first(case.model))
        self.draw = torch.Generator().manual_seed(0)

    def cohort(self) -> Ints:
        """Return the clients of the next round."""
        drawn = torch.randperm(self.case.clients, generator=self.draw)
        clients: Ints = drawn[: self.case.cohort].numpy()
        return clients

    def round(self) -> None:
        """Train one round; all clients weigh the same."""
        total = [torch.zeros_like(w) for w in self.now]
        self.trainer.sum(self.cohort(), self.now, total)
        self.now = [t / self.case.cohort for t in total]

    def rounds(self, count: int) -> list[float]:
        return timed(self.round, count)

    def weights(self) -> Weights:
        return plain(dict(zip(self.names, self.now, strict=True)))


class Pair(Alone):
    """Half of the clients each in two forked processes."""

    def __init__(self, case: Case, trainer: Trainer) -> None:
        super().__init__(case, trainer)
        self.start = [_shared(w) for w in self.now]
        self.totals = [[_shared(w) for w in self.now] for _ in range(2)]
        self.asked = _shared(torch.zeros(2, case.cohort, dtype=torch.int64))
        self.pipes = [self.fork(i) for i in range(2)]

    def fork(self, place: int) -> tuple[int, int]:
        """Start one worker; return the ends to wake it and to hear from it."""
        (work_in, work_out), (done_in, done_out) = os.pipe(), os.pipe()
        if os.fork():
            os.close(work_in)
            os.close(done_out)
            return work_out, done_in
        os.close(work_out)
        os.close(done_in)
        self.trainer.draw.manual_seed(place + 1)
        while count := os.read(work_in, 1):
            clients = self.asked[place, : count[0]].numpy()
            for t in self.totals[place]:
                t.zero_()
            self.trainer.sum(clients, self.start, self.totals[place])
            os.write(done_out, b"!")
        os._exit(0)

    def round(self) -> None:
        """Train one round; all clients weigh the same."""
        torch._foreach_copy_(self.start, self.now)
        clients = torch.from_numpy(self.cohort())
        for place, mine in enumerate(clients.chunk(2)):
            self.asked[place, : len(mine)] = mine
            os.write(self.pipes[place][0], bytes([len(mine)]))
        for _, done in self.pipes:
            os.read(done, 1)
        pairs = zip(*self.totals, strict=True)
        self.now = [(a + b) / self.case.cohort for a, b in pairs]


def _shared(tensor: Tensor) -> Tensor:
    """Return a copy of ``tensor`` in memory that forked processes share."""
    size = tensor.numel() * tensor.element_size()
    flat = torch.frombuffer(mmap.mmap(-1, size), dtype=tensor.dtype)
    return flat.view(tensor.shape).copy_(tensor)


def make(case: Case) -> Engine:
    """Return the loop that the command line names."""
    kind = sys.argv[1]
    trainer = Stacked(case) if kind.startswith("vmap") else Trainer(case)
    return Pair(case, trainer) if kind.endswith("-2") else Alone(case, trainer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(make, "torch")
