"""Aggregator processes: real ones, killed for real."""

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from fedcore.errors import ConfigError, PeerLostError, ProtocolError, StorageError
from fedcore.hierarchy.arena import FLOAT32, FLOAT64, Arena, Frame
from fedcore.hierarchy.hand import TRIES
from fedcore.hierarchy.pool import Pool
from fedcore.params import digest
from fedcore.partial import summed
from fedcore.strategy import Update

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def updates(count, numbers=1000, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    for i in range(count):
        w = torch.randn(numbers, generator=g).to(dtype)
        yield Update(f"p{i:04d}", i % 3, {"w": w, "b": torch.full((2, 2), 0.5)}, i + 1)


pytestmark = pytest.mark.slow  # real processes


def bits(partial):
    update = partial.update()
    return digest(update.payload), update.examples, update.version


@pytest.fixture(scope="module")
def pool():
    with Pool(3) as pool:
        yield pool


def alive(pid):
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(pids, within_s=20.0):
    until_s = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < until_s:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def open_files():
    gc.collect()  # what an earlier test left lying would be closed in between
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_processes_have_the_bits_of_the_plain_sum(pool, count):
    assert bits(pool.summed(updates(count))) == bits(summed(updates(count)))


def test_processes_stay_for_the_next_round_and_models_may_change_size(pool):
    before = pool.pids
    for numbers in (10, 200_000, 1):
        got = pool.summed(updates(7, numbers))
        assert bits(got) == bits(summed(updates(7, numbers)))
    assert pool.pids == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_type_of_number_is_summed_exactly(pool, dtype):
    given = list(updates(5, dtype=dtype))
    assert bits(pool.summed(given)) == bits(summed(given))


def test_sums_of_many_and_plain_updates_mix(pool):
    given = list(updates(9))
    mixed = [summed(given[:4]).update("edge"), *given[4:]]
    assert bits(pool.summed(mixed)) == bits(summed(given))


def test_a_sum_that_leaves_the_ring_is_counted_on_beside_it(pool):
    big = {"w": torch.tensor([2.0**20, -(2.0**20)])}
    given = [Update(f"p{i}", 0, big, 900) for i in range(7)]
    assert digest(pool.summed(given).mean()) == digest(summed(given).mean())


def test_no_update_is_an_empty_sum(pool):
    assert pool.summed([]).examples == 0


@pytest.mark.parametrize(
    ("payload", "examples", "word"),
    [
        ({"w": torch.zeros(3)}, 1, "'b'"),
        ({"w": torch.zeros(4), "b": torch.zeros(2, 2)}, 1, "'w'"),
        ({"w": torch.full((1000,), torch.nan), "b": torch.zeros(2, 2)}, 1, "leaves"),
        ({"w": torch.zeros(1000), "b": torch.zeros(2, 2)}, 0, "weight 0"),
        ({"w": torch.zeros(1000).int(), "b": torch.zeros(2, 2)}, 1, "neither"),
    ],
)
def test_a_bad_update_is_refused_and_the_pool_goes_on(pool, payload, examples, word):
    given = [*updates(5), Update("liar", 0, payload, examples)]
    with pytest.raises(ProtocolError, match=word):
        pool.summed(given)
    assert bits(pool.summed(updates(5))) == bits(summed(updates(5)))


def test_what_does_not_fit_into_a_slot_is_refused_by_name():
    arena = Arena.new(Frame(numbers=10, slot_bytes=40, slots=1, aggregators=1))
    assert arena.slot(0, FLOAT32, "p1").shape == (10,)
    with pytest.raises(ProtocolError, match=r"p1: an update of 80 bytes .* of 40"):
        arena.slot(0, FLOAT64, "p1")
    arena.close()


@linux
def test_nobody_can_shorten_the_memory_under_the_others():
    arena = Arena.new(Frame(10, 40, 1, 1))
    for size in (0, 10**6):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)
    with pytest.raises(ProtocolError, match="size"):
        Arena(Frame(11, 44, 2, 1), arena.fd)
    arena.close()


def test_parts_of_an_arena_do_not_overlap():
    frame = Frame(numbers=7, slot_bytes=56, slots=3, aggregators=2)
    arena = Arena.new(frame)
    parts = [arena.cell(i).view("u1") for i in range(2)]
    parts += [arena.scratch(i).view("u1") for i in range(2)]
    parts += [arena.sum(i).view("u1") for i in range(2)]
    parts += [arena.slot(i, FLOAT64, "p").view("u1") for i in range(3)]
    for number, part in enumerate(parts, 1):
        part[:] = number
    assert all((part == number).all() for number, part in enumerate(parts, 1))
    arena.close()


@linux
def test_one_that_died_between_rounds_is_replaced(pool):
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    assert gone(pool.pids)
    assert bits(pool.summed(updates(8))) == bits(summed(updates(8)))


def test_one_that_dies_over_and_over_is_told_and_the_round_can_be_done_again():
    def deadly(pool):
        """Yield updates; kill the first aggregator whenever it is due to start."""
        yield from updates(2)
        for _ in range(TRIES):
            os.kill(pool.hands[0].pid, signal.SIGKILL)
            pool.hands[0].revive()

    with Pool(1, depth=9) as pool:
        pool.hands[0].done = lambda: []  # it is not heard, so nothing is ever done
        with pytest.raises(PeerLostError, match=f"died {TRIES} times"):
            pool.summed(deadly(pool))
        del pool.hands[0].done
        assert bits(pool.summed(updates(4))) == bits(summed(updates(4)))


def test_without_aggregators_a_round_is_summed_and_a_stream_is_lost(
    caplog, monkeypatch
):
    monkeypatch.setattr("sys.executable", shutil.which("false"))  # none can start
    given = list(updates(5))
    with Pool(2) as pool:
        assert bits(pool.summed(given)) == bits(summed(given))
        assert "summed without aggregators" in caplog.text
    with Pool(2) as pool, pytest.raises(PeerLostError, match=f"died {TRIES} times"):
        pool.summed(updates(5))


@linux
def test_the_gateway_waits_while_all_slots_are_taken():
    asked = []

    def counted():
        for update in updates(12):
            asked.append(update.peer)
            yield update

    with Pool(1, depth=2) as pool:
        pool.summed(updates(1))
        os.kill(pool.pids[0], signal.SIGSTOP)
        got = []
        gateway = threading.Thread(target=lambda: got.append(pool.summed(counted())))
        gateway.start()
        until_s = time.monotonic() + 20.0
        while len(asked) < 3 and time.monotonic() < until_s:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(asked) == 3  # two wait in slots, and the next one for a slot
        os.kill(pool.pids[0], signal.SIGCONT)
        gateway.join()
    assert bits(got[0]) == bits(summed(updates(12)))


@linux
def test_one_that_hangs_is_replaced_when_patience_ends():
    with Pool(1) as pool:
        pool.summed(updates(1))
        hung = pool.pids[0]
        os.kill(hung, signal.SIGSTOP)
        pool._patience_s = 0.3
        threading.Timer(1.0, lambda: setattr(pool, "_patience_s", 60.0)).start()
        with suppress(PeerLostError):  # a slow machine may need more than patience
            assert bits(pool.summed(updates(3))) == bits(summed(updates(3)))
        assert gone([hung])


@linux
def test_closing_leaves_no_process_and_no_open_file():
    files = open_files()
    with Pool(2) as pool:
        pool.summed(updates(3))
        pids = pool.pids
    assert gone(pids)
    assert open_files() == files
    with pytest.raises(ConfigError, match="closed"):
        pool.summed(updates(1))


def test_an_aggregator_starts_without_torch():
    code = "import fedcore.hierarchy.worker, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numbers_that_cannot_be_are_refused():
    for wrong in [(0,), (1, 1), (1, 2, 0), (1, 2, 1, 0.0)]:
        with pytest.raises(ConfigError):
            Pool(*wrong)


@linux
@pytest.mark.slow
def test_sums_are_exact_however_often_aggregators_are_killed():
    """A thread kills them at random moments, in the middle of folds too."""
    draw = random.Random(7)
    given = list(updates(16, numbers=1_000_000))
    wanted = bits(summed(given))
    with Pool(2) as pool:

        def murder():
            for _ in range(10):
                time.sleep(draw.uniform(0.02, 0.8))
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(pool.pids), signal.SIGKILL)

        assert bits(pool.summed(iter(given))) == wanted
        files = open_files()
        killer = threading.Thread(target=murder)
        killer.start()
        while killer.is_alive():
            with suppress(PeerLostError):  # killed over and over; sum the round again
                assert bits(pool.summed(iter(given))) == wanted
        killer.join()
        assert bits(pool.summed(given)) == wanted
        assert open_files() == files
        pids = pool.pids
    assert gone(pids)


OWNER = """
import sys, torch
from fedcore.hierarchy.pool import Pool
from tests.unit.test_hierarchy_pool import updates
pool = Pool(2)
pool.summed(updates(4, numbers=300_000))
print(*pool.pids, flush=True)
while True:
    pool.summed(updates(4, numbers=300_000))
"""


def mapped(pid):
    """Return the lines about shared memory among what a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "/dev/shm" in line or "/memfd:fedcore" in line]


@linux
@pytest.mark.slow
def test_an_owner_that_is_killed_leaves_nothing_behind():
    """Its processes end, and the memory they share has no name that could stay."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    )
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 2
    shared = [line for pid in (owner.pid, *pids) for line in mapped(pid)]
    assert len(shared) >= 3
    assert all(line.endswith("/memfd:fedcore (deleted)") for line in shared)
    time.sleep(0.2)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert gone(pids)


MANY = """
import os, torch
from pathlib import Path
from fedcore.hierarchy.pool import Pool
from fedcore.strategy import Update
torch.set_num_threads(1)

def updates(count, numbers):
    for i in range(count):
        yield Update(f"p{i}", 0, {"w": torch.full((numbers,), 0.5)}, i + 1)

def peak(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

with Pool(2) as pool:
    pool.summed(updates(2, numbers=10))
    before = peak(os.getpid())
    total = pool.summed(updates(300, numbers=1_000_000))
    print(total.examples, peak(os.getpid()) - before, max(map(peak, pool.pids)))
"""


@linux
@pytest.mark.slow
def test_memory_is_that_of_a_few_models_whatever_the_number_of_updates():
    """300 updates of 4 MB are 1.2 GB; two leaves hold 2 sums and 4 updates: 32 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MANY], stdout=subprocess.PIPE, text=True, check=True
    )
    examples, gateway_bytes, leaf_bytes = map(int, done.stdout.split())
    assert examples == 300 * 301 // 2
    assert gateway_bytes < 150e6
    assert leaf_bytes < 150e6


def files():
    return len(list(Path("/proc/self/fd").iterdir()))


@linux
def test_a_pool_that_cannot_be_started_leaves_nothing_behind(monkeypatch):
    begun, open_files, start = [], files(), subprocess.Popen

    def third_fails(*words, **settings):
        if len(begun) == 2:
            raise OSError(errno.EAGAIN, "no more processes")
        begun.append(start(*words, **settings))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", third_fails)
    with pytest.raises(PeerLostError, match=r"aggregator 2 cannot.*lower hierarchy"):
        Pool(3)
    assert not any(alive(process.pid) for process in begun)
    assert files() == open_files


@linux
def test_a_pool_that_can_replace_nobody_closes_and_the_sum_is_taken_here(monkeypatch):
    def fails(*words, **settings):
        raise OSError(errno.EAGAIN, "no more processes")

    us = list(updates(6))
    with Pool(2) as pool:
        monkeypatch.setattr(subprocess, "Popen", fails)
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        assert bits(pool.summed(us)) == bits(summed(us))
        with pytest.raises(ConfigError, match="closed"):
            pool.summed(us)


@linux
def test_memory_that_is_not_to_be_had_is_named(monkeypatch):
    open_files = files()

    def full(*_):
        raise OSError(errno.ENOMEM, "out of memory")

    monkeypatch.setattr("fedcore.hierarchy.arena.os.ftruncate", full)
    with pytest.raises(StorageError, match=r"shared memory .* lower hierarchy.leaves"):
        Arena.new(Frame(10, 40, 2, 1))
    assert files() == open_files
