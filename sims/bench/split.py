"""``fedcore bench split``: what a split costs, and whether the best cut is foretold.

The model is a small convolutional network on MNIST digits, in two processes on this
machine. Slower devices sleep so much longer; slower links are played by the sender.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from torch import Tensor

from clients.split.channel import Channel, Dial
from clients.split.client import SplitClient
from clients.split.cut import Cut, blocks_of
from clients.split.far import Far
from clients.split.pareto import Place, Point, alike, front_of, predicted
from clients.split.profile import profiled
from clients.split.server import SplitServer
from clients.split.slow import Net
from clients.split.sockets import Listening, SocketChannel
from clients.split.stage import measured
from clients.tasks import load_task
from clients.tasks.dataset import Dataset
from clients.trainers import autograd
from clients.trainers.sgd import SGD
from fedcore.params import Params, size_bytes
from fedcore.strategy import Work
from sims.bench.figures import draw, seconds_chart
from sims.bench.frame import Bench, Options, Row, middle, skipped, versus
from sims.report.chart import Line, Lines

ABOUT = (
    "cnn of 8 blocks on mnist5k, batches of 32, one thread a process; the server is a "
    "process of its own behind a TCP socket.",
    "Foretold: block times profiled alone, just before; latency = t1 + bytes / rate + "
    "round trip + t2, batches per second = 1 / max(t1, bytes / rate, t2). Measured: "
    "every cut, run for real.",
    "In rows of cuts, ours is what was measured at the cut that is foretold to be the "
    "best, other what was measured at the cut that was best; 1 is the right cut. Two "
    "fronts agree if what is on one misses the other by at most 15 %.",
    "A slower device is played by sleeping, a slower link by a sender that waits.",
    "Bytes of an epoch: split learning sends activations of every example, federated "
    "averaging sends the model once each way, however many examples there are.",
)
TASK = "mnist5k"
SETTINGS = {"model": "cnn"}
WORDS = (f"--set=task.name={TASK}", "--set=task.model=cnn")
TIE = 0.15
LATE_S = 18.0  # in a quick run, a scene that would begin later is left out


@dataclass(frozen=True, slots=True)
class Scene:
    """Two devices and a link, with a name."""

    name: str
    about: str
    place: Place


NEAR, SLOW, FAR = Net(5e-3, 125e6), Net(5e-3, 6.25e6), Net(4e-2, 1.25e6)
SCENES = (
    Scene("twins", "both 3x slower, 5 ms, 1 Gbit/s", Place(3.0, 3.0, NEAR)),
    Scene("phone", "client 8x slower, 5 ms, 50 Mbit/s", Place(8.0, 1.0, SLOW)),
    Scene("far", "client 8x slower, 40 ms, 10 Mbit/s", Place(8.0, 1.0, FAR)),
)


def rows(options: Options) -> Iterator[Row]:
    """Measure, and yield rows as they are ready."""
    end_s = time.monotonic() + (LATE_S if options.quick else inf)
    dataset = load_task(TASK, SETTINGS)
    yield from overhead_rows(dataset, options)
    for scene in SCENES:
        if scene is SCENES[0] or time.monotonic() < end_s:
            yield from scene_rows(dataset, scene, options)
        else:
            reason = "no time left in --quick"
            yield skipped(f"{scene.name}: cuts", scene.about, "ms/batch", reason)
    yield from bytes_rows(dataset)


BENCH = Bench(
    "cost of splitting a model, and whether the best cut is foretold", ABOUT, rows
)


def bytes_rows(dataset: Dataset) -> Iterator[Row]:
    """Yield the bytes that an epoch of one client sends and gets, cut by cut."""
    task, start = dataset.whole(), dataset.start(seed=0)
    whole = 2 * size_bytes(start)
    names = ["inputs", *blocks_of(dataset.new_model())]
    cuts = [Cut(at) for at in range(len(names))] + [Cut(3, 1)]
    work = f"one epoch, {task.epoch_steps} steps of 32"
    for cut in cuts:
        step_bytes = bytes_of_step(dataset, cut, start)
        kind = f"block {names[cut.at]}" if cut.at else "the inputs"
        shape = ", labels stay" if cut.head else ""
        name = f"bytes, cut after {kind}{shape}, vs FedAvg"
        note = f"{step_bytes / 1e3:.1f} kB a step, both ways; FedAvg: the model, twice"
        ours_mb, other_mb = step_bytes * task.epoch_steps / 1e6, whole / 1e6
        yield versus(name, work, ours_mb, other_mb, "MB", note)


def bytes_of_step(dataset: Dataset, cut: Cut, start: Params) -> float:
    """Return what one training step puts on the socket, both ways together."""
    counts = [_bytes_of(dataset, cut, start, steps) for steps in (1, 3)]
    return (counts[1] - counts[0]) / 2


def _bytes_of(dataset: Dataset, cut: Cut, start: Params, steps: int) -> int:
    task, channels = dataset.whole(), list[SocketChannel]()
    with Listening(SplitServer(task, cut, start).visit) as listening:

        def dial() -> Channel:
            channels.append(listening.dial())
            return channels[-1]

        SplitClient(task, cut).train(dial, steps, start)
    return sum(c.sent_bytes + c.received_bytes for c in channels)


def overhead_rows(dataset: Dataset, options: Options) -> Iterator[Row]:
    """Yield what a step takes split in two, beside the plain loop, taking turns."""
    steps, turns, cuts = (20, 3, (3,)) if options.quick else (30, 7, (3, 6))
    plain, memory, socket = list[float](), list[float](), list[float]()
    for at in cuts:
        with Far([*WORDS, f"--at={at}"], Net()) as far:
            for turn in range(turns):
                plain.append(plain_s(dataset, steps))
                memory.append(split_s(dataset, Cut(at), steps, turn, None))
                socket.append(split_s(dataset, Cut(at), steps, turn, far.dial))
        for name, taken in (("one process", memory), ("two processes", socket)):
            row = f"training, cut {at}, {name}, vs the plain loop"
            work = f"{turns} turns of {steps} steps of 32, no delay"
            ours_ms, other_ms = (1e3 * middle(t[-turns:]) for t in (taken, plain))
            yield versus(row, work, ours_ms, other_ms, "ms/step", "same bits")


def plain_s(dataset: Dataset, steps: int) -> float:
    """Return the seconds of a step of the unsplit loop."""
    task, trainer = dataset.whole(), SGD()
    work = Work(0, dataset.start(seed=0), steps)
    began_s = time.perf_counter()
    autograd.train(task, work, "client", trainer.method(), trainer.rule(work))
    return (time.perf_counter() - began_s) / steps


def split_s(
    dataset: Dataset, cut: Cut, steps: int, turn: int, dial: Dial | None
) -> float:
    """Return the seconds of a step in two parts; in this process without ``dial``."""
    task, start = dataset.whole(), dataset.start(seed=0)
    server = SplitServer(task, cut, start)
    began_s = time.perf_counter()
    SplitClient(task, cut).train(dial or server.dial, steps, start, turn)
    return (time.perf_counter() - began_s) / steps


def scene_rows(dataset: Dataset, scene: Scene, options: Options) -> Iterator[Row]:
    """Foretell and measure one scene; yield the verdicts and draw the fronts."""
    options.say(f"{scene.name}: {scene.about}")
    x, _ = next(dataset.whole().batches(0))
    told, found = points_of(dataset, scene, x, 4 if options.quick else 12)
    agree = alike(told, found, TIE)
    facts = [
        f"fronts: foretold {_cuts(told)}, measured {_cuts(found)}, "
        f"{'agree' if agree else 'DISAGREE'}",
        f"measured / foretold over cuts: latency {_spread(told, found, latency_s)}, "
        f"rate {_spread(told, found, batch_s)}",
    ]
    for name, cost in (("quickest cut", latency_s), ("busiest cut", batch_s)):
        chosen = found[min(told, key=cost).at]
        best = min(found, key=cost)
        note = "; ".join([f"chosen {chosen.at}, best {best.at}", *facts])
        facts = []
        ours_ms, other_ms = 1e3 * cost(chosen), 1e3 * cost(best)
        row = f"{scene.name}: {name}, foretold vs best"
        yield versus(row, scene.about, ours_ms, other_ms, "ms/batch", note)
    busiest = min(found, key=batch_s)
    row = f"{scene.name}: pipelined vs one at a time"
    figures = 1e3 * batch_s(busiest), 1e3 * latency_s(busiest)
    yield versus(row, scene.about, *figures, "ms/batch", f"both at cut {busiest.at}")
    draw(options, cuts_chart(scene, told, found))
    draw(options, front_chart(scene, told, found))


def points_of(
    dataset: Dataset, scene: Scene, x: Tensor, repeats: int
) -> tuple[list[Point], list[Point]]:
    """Return what is foretold and what is measured, cut by cut."""
    place, model = scene.place, dataset.new_model()
    with Far([*WORDS, f"--slowdown={place.server}"], place.net) as far:
        told = predicted(profiled(model, x), place)
        speeds = measured(model, far.dial, x, slowdown=place.client, repeats=repeats)
    return told, [Point(at, s.latency_s, s.per_s) for at, s in enumerate(speeds)]


def latency_s(point: Point) -> float:
    """Return the seconds of one batch alone."""
    return point.latency_s


def batch_s(point: Point) -> float:
    """Return the seconds between batches when several are under way."""
    return 1.0 / point.per_s


def _cuts(points: Sequence[Point]) -> str:
    return " ".join(str(p.at) for p in front_of(points))


def _spread(
    told: Sequence[Point], found: Sequence[Point], cost: Callable[[Point], float]
) -> str:
    ratios = [cost(f) / cost(t) for t, f in zip(told, found, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def cuts_chart(scene: Scene, told: Sequence[Point], found: Sequence[Point]) -> Lines:
    """Return what a batch takes at every cut, alone and with others under way."""
    lines = {
        f"{how}, {name}": [(p.at, cost(p)) for p in points]
        for how, cost in (("alone", latency_s), ("several under way", batch_s))
        for name, points in (("foretold", told), ("measured", found))
    }
    return seconds_chart(
        f"bench-split-{scene.name}-cuts",
        f"Seconds a batch at every cut: {scene.name} ({scene.about})",
        "Lower is better; alone is latency, several under way one over the rate.",
        "blocks with the client",
        lines,
    )


def front_chart(scene: Scene, told: Sequence[Point], found: Sequence[Point]) -> Lines:
    """Return the fronts of one scene, foretold and measured."""
    series = [
        Line.of(name, sorted((1e3 * p.latency_s, p.per_s) for p in front_of(points)))
        for name, points in (("foretold", told), ("measured", found))
    ]
    return Lines(
        slug=f"bench-split-{scene.name}-front",
        title=f"Cuts that no other beats: {scene.name} ({scene.about})",
        note="Batches a second over latency; up and left is better.",
        x_label="latency of one batch, ms",
        unit="",
        series=tuple(series),
        from_zero=True,
    )
