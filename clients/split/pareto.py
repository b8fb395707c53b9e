"""Where to split: what every cut would take, and the cuts worth a thought.

Source:
    "ParetoPipe: Pareto-optimal split points of models over two edge devices" (the
    program of that name): latency against throughput of pipelined inference.

    latency    = t1 + bytes / rate + round trip + t2
    throughput = 1 / max(t1, bytes / rate, t2)

Departures: t1 and t2 include making and reading the messages; the way back counts
its bytes, too; throughput is also at most the batches under way over the latency;
and both ends of the scale are points, all there and all here (no link at all).
Points are compared by latency and throughput; the authors' plots use throughput and
bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from clients.split.profile import Profile
from clients.split.slow import Net
from clients.split.stage import WINDOW, check_slowdown


@dataclass(frozen=True, slots=True)
class Point:
    """One cut, predicted or measured.

    Attributes:
        at: blocks that run with the client.
        latency_s: seconds from inputs to outputs.
        per_s: batches per second with several under way.
    """

    at: int
    latency_s: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Two devices and the link between them.

    Attributes:
        client: how many times slower than the profiled machine the client is, >= 1.
        server: the same of the server, >= 1.
        net: the link.
    """

    client: float = 1.0
    server: float = 1.0
    net: Net = field(default_factory=Net)

    def __post_init__(self) -> None:
        check_slowdown(self.client)
        check_slowdown(self.server)


def predicted(profile: Profile, place: Place, window: int = WINDOW) -> list[Point]:
    """Return what inference would take at every cut, from none here to all.

    Args:
        profile: of the model, on this machine.
        place: the devices and the link.
        window: batches under way at once, >= 1.
    """
    return [_point(profile, place, at, window) for at in range(len(profile.blocks) + 1)]


def _point(profile: Profile, place: Place, at: int, window: int) -> Point:
    here_s = sum(b.forward_s for b in profile.blocks[:at])
    there_s = sum(b.forward_s for b in profile.blocks[at:])
    if at == len(profile.blocks):
        return Point(at, place.client * here_s, 1.0 / (place.client * here_s))
    up, down = profile.crossings[at], profile.crossings[-1]
    t1_s = place.client * (here_s + up.encode_s)
    t2_s = place.server * (up.decode_s + there_s + down.encode_s)
    way_s = [place.net.busy_s(each.size_bytes) for each in (up, down)]
    latency_s = t1_s + sum(way_s) + 2.0 * place.net.delay_s + t2_s + down.decode_s
    return Point(at, latency_s, min(1.0 / max(t1_s, *way_s, t2_s), window / latency_s))


def step_s(profile: Profile, place: Place, at: int) -> float:
    """Return the seconds of one training step with the cut after ``at`` blocks.

    The server has the loss. The gradient of what crosses comes back, of the same size,
    unless the front is empty. The sides take turns: a step is as long as all its parts.
    """
    here_s, there_s = (
        sum(b.forward_s + b.backward_s for b in part)
        for part in (profile.blocks[:at], profile.blocks[at:])
    )
    cross, back = profile.crossings[at], 1.0 if at else 0.0
    client_s = here_s + cross.encode_s + back * cross.decode_s
    server_s = there_s + cross.decode_s + back * cross.encode_s
    link_s = (1.0 + back) * place.net.busy_s(cross.size_bytes) + 2.0 * place.net.delay_s
    return place.client * client_s + link_s + place.server * server_s


def front_of(points: Sequence[Point], tie: float = 0.0) -> list[Point]:
    """Return the points that no other beats in both latency and throughput.

    Args:
        points: any number.
        tie: share by which figures may differ and still count as equal, in [0, 1).
            A point beats another if it is better by more than that in one, and no
            worse in the other.
    """
    return [p for p in points if not any(_beats(q, p, tie) for q in points)]


def _beats(q: Point, p: Point, tie: float) -> bool:
    """Tell whether ``q`` is clearly better than ``p`` in one, no worse in the other."""
    quick = q.latency_s * (1.0 + tie) < p.latency_s
    many = q.per_s > p.per_s * (1.0 + tie)
    return (quick and q.per_s >= p.per_s) or (many and q.latency_s <= p.latency_s)


def alike(ours: Sequence[Point], theirs: Sequence[Point], tie: float) -> bool:
    """Tell whether two sets of points, cut by cut, have one front up to ``tie``.

    Every point on the front of one must be on that of the other, or miss it by no more
    than ``tie``.
    """
    pairs = ((ours, theirs), (theirs, ours))
    return all(
        {p.at for p in front_of(a)} <= {p.at for p in front_of(b, tie)}
        for a, b in pairs
    )
