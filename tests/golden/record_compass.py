"""Record what the scheduler of FedCompass's authors does: ``compass.json``.

    pip download appfl==1.12.0 --no-deps && unzip appfl-1.12.0-py3-none-any.whl
    python -m tests.golden.record_compass appfl/algorithm/scheduler/compass_scheduler.py

The file given is run as it is, with four stand-ins for what it imports, and with the
modules ``time`` and ``threading`` of its own replaced by a virtual clock. Clients are
numbers: how long a batch takes, and by which factor each of their works is off. A
schedule is set aside if a situation arises in which that scheduler loses answers or
lets them wait without end, or in which ours knowingly does something else; those are in
``tests/unit/test_compass_pacer.py``.

APPFL is by Argonne National Laboratory and under the MIT licence. None of its text is
here or in what is recorded: only times, and the numbers that came out.
"""

import heapq
import importlib.util
import json
import sys
import threading
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TRACES = Path(__file__).with_name("compass.json")
SPREAD_S = [
    0.2442,
    0.3399,
    0.1119,
    0.1016,
    0.5812,
    0.7274,
    0.8655,
    0.8891,
    0.099,
    0.2843,
]
SETTINGS = [
    {"max": 100, "min": 20, "momentum": 0.9, "factor": 1.5},
    {"max": 200, "min": 40, "momentum": 0.9, "factor": 1.5},
    {"max": 50, "min": 5, "momentum": 0.5, "factor": 1.2},
]


@dataclass
class Clock:
    """Virtual time, and everything that will happen."""

    now_s: float = 0.0
    events: list = field(default_factory=list)
    count: int = 0

    def time(self):
        return self.now_s

    def at(self, when_s, act):
        self.count += 1
        heapq.heappush(self.events, (when_s, self.count, act))

    def step(self):
        self.now_s, _, act = heapq.heappop(self.events)
        act()


def scheduler_class(path, clock):
    """Return the class in ``path``, its clock and timers replaced by ``clock``."""

    class Given:
        def __init__(self, configs, aggregator, logger):
            self.scheduler_configs, self.aggregator = configs, aggregator

    class Timer:
        def __init__(self, delay_s, act, args, kwargs):
            self.start = lambda: clock.at(
                clock.now_s + delay_s, lambda: act(*args, **kwargs)
            )

    stubs = {
        "omegaconf": {"DictConfig": dict},
        "appfl.algorithm.scheduler": {"BaseScheduler": Given},
        "appfl.algorithm.aggregator": {"BaseAggregator": object},
        "appfl.misc.memory_utils": {"optimize_memory_cleanup": lambda *a, **k: None},
    }
    for name, members in stubs.items():
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(members)
    spec = importlib.util.spec_from_file_location("compass_scheduler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.time = clock
    module.gc = types.SimpleNamespace(collect=lambda: 0)  # it takes the longest
    module.threading = types.SimpleNamespace(Timer=Timer, Lock=threading.Lock)
    return module.CompassScheduler


class SetAsideError(Exception):
    """A situation arose in which the two are not meant to agree."""


class Recorder:
    """Clients, and an aggregator that notes what it is given."""

    def __init__(self, path, settings, seed, speeds_s, jitter):
        self.clock = Clock()
        self.draw = np.random.Generator(np.random.Philox(seed))
        self.speeds_s, self.jitter = speeds_s, jitter
        self.arrivals, self.starts, self.folds, self.late = [], [], [], 0
        configs = types.SimpleNamespace(
            max_local_steps=settings["max"],
            min_local_steps=settings["min"],
            speed_momentum=settings["momentum"],
            latest_time_factor=settings["factor"],
            optimize_memory=True,
        )
        make = scheduler_class(path, self.clock)
        self.scheduler = make(configs, self, None)
        for client in range(len(speeds_s)):
            self._work(client, settings["max"])

    def run(self, arrivals):
        while len(self.arrivals) < arrivals:
            self._check_timers()
            self.clock.step()
            self._release()

    def get_parameters(self):
        return {}

    def aggregate(self, client_id=None, local_model=None, local_models=None, **given):
        stale = given["staleness"]
        if local_models is None:
            stale = {client_id: stale}
        self.folds.append([self.clock.now_s, sorted(stale.items())])

    def _work(self, client, steps):
        off = self.draw.lognormal(0.0, self.jitter)
        off *= 2.5 if self.draw.random() < 0.03 else 1.0
        took_s = steps * self.speeds_s[client] * float(off)
        self.clock.at(self.clock.now_s + took_s, lambda: self._arrive(client))

    def _arrive(self, client):
        self.arrivals.append([self.clock.now_s, client])
        self._check_late(client)
        answer = self.scheduler.schedule(client, {})
        if isinstance(answer, tuple):
            self._start(client, answer[1]["local_steps"])
        else:
            answer.add_done_callback(
                lambda done: self._start(client, done.result()[1]["local_steps"])
            )

    def _start(self, client, steps):
        group = self.scheduler.client_info[client]["goa"]
        self.starts.append([self.clock.now_s, client, steps, group])
        self._work(client, steps)

    def _release(self):
        times = [e[0] for e in self.clock.events]
        if len(times) > len(set(times)):
            raise SetAsideError("two events at one time")

    def _open(self):
        groups = self.scheduler.arrival_group
        now_s = self.clock.now_s
        return {g for g, v in groups.items() if v["latest_arrival_time"] > now_s}

    def _check_late(self, client):
        info = self.scheduler.client_info.get(client, {})
        group = self.scheduler.arrival_group.get(info.get("goa"))
        waits = self.scheduler.general_buffer["local_models"]
        if client in waits:
            raise SetAsideError("an answer would take the place of an earlier one")
        late = group is not None and self.clock.now_s > group["latest_arrival_time"]
        self.late += late
        if late and not self._open():
            raise SetAsideError("a late answer, and no group that it could go with")
        if late and info["timestamp"] == self.scheduler.global_timestamp:
            raise SetAsideError(
                "a late answer, and its sender gets the same model again"
            )

    def _check_timers(self):
        """Refuse a group that ends without answers while late ones wait for its end."""
        if not self.scheduler.general_buffer["local_models"]:
            return
        next_s = self.clock.events[0][0]
        for group in self.scheduler.arrival_group.values():
            ends = self.clock.now_s < group["latest_arrival_time"] <= next_s + 1e-9
            if ends and not group["arrived_clients"]:
                raise SetAsideError("a group ends empty, and late answers wait")


def speeds_of(kind, seed, clients):
    draw = np.random.Generator(np.random.Philox(seed + 1000))
    if kind == "spread":
        return SPREAD_S
    if kind == "equal":
        return [0.15] * clients
    if kind == "normal":
        return [max(0.02, float(x)) for x in draw.normal(0.15, 0.045, clients)]
    return [max(0.01, float(x)) for x in draw.exponential(0.15, clients)]


def recorded(path, kind, seed, arrivals=70):
    """Return a trace, or None if this schedule is not one to compare on."""
    settings = SETTINGS[seed % len(SETTINGS)]
    clients = (5, 10, 8)[seed % 3]
    jitter = (0.05, 0.15, 0.3)[seed // 3 % 3]
    speeds_s = speeds_of(kind, seed, clients)
    recorder = Recorder(path, settings, seed, speeds_s, jitter)
    try:
        recorder.run(arrivals)
    except SetAsideError:
        return None
    return {
        "kind": kind,
        "seed": seed,
        "clients": len(speeds_s),
        "settings": settings,
        "late": recorder.late,
        "arrivals": recorder.arrivals,
        "starts": sorted(recorder.starts),
        "folds": recorder.folds,
    }


def main(path):
    """Write the three traces of each kind that hold the most late answers."""
    traces = []
    for kind in ("spread", "equal", "normal", "exponential"):
        made = [recorded(path, kind, seed) for seed in range(60)]
        good = [trace for trace in made if trace]
        rare = sorted(good, key=lambda t: (t["late"], t["seed"]))[-3:]
        sys.stdout.write(f"{kind}: {len(good)} of {len(made)} schedules are clean\n")
        traces += sorted(rare, key=lambda t: t["seed"])
    text = ",\n".join(json.dumps(t, separators=(",", ":")) for t in traces)
    TRACES.write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
