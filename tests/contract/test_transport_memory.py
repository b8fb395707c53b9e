"""Delays, losses, bandwidth and partitions of the in-memory network, on its clock."""

import pytest
import trio
import trio.testing

from fedcore.errors import PeerLostError
from p2p.machine import Down, Up
from p2p.memory import MemoryNetwork


def run(main):
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def echo(peer, body):
    return body


def test_an_answer_takes_two_delays_and_the_time_of_its_bytes():
    async def main():
        network = MemoryNetwork(delay_s=0.25, bytes_per_s=1000.0)
        a, b = network.join("a"), network.join("b")
        b.serve("/echo/1", echo)
        await a.ask("b", "/echo/1", b"", timeout_s=10)
        assert trio.current_time() == pytest.approx(0.5)
        await a.ask("b", "/echo/1", bytes(500), timeout_s=10)
        assert trio.current_time() == pytest.approx(0.5 + 0.5 + 2 * 0.5)

    run(main)


def test_messages_of_one_link_share_its_bandwidth():
    async def main():
        heard_s = []

        async def hear(peer, body):
            heard_s.append(trio.current_time())
            return b""

        network = MemoryNetwork(bytes_per_s=100.0)
        a, b, c = (network.join(name) for name in "abc")
        b.serve("/t/1", hear)
        for node in (a, a, c):
            await node.tell("b", "/t/1", bytes(100))
        await trio.sleep(10)
        assert heard_s == pytest.approx([1.0, 1.0, 2.0])

    run(main)


def arrivals(seed):
    """Return which of 200 messages arrive, and when."""
    heard = []

    async def hear(peer, body):
        heard.append((body[0], round(trio.current_time(), 6)))
        return b""

    async def main():
        network = MemoryNetwork(delay_s=0.1, jitter_s=0.4, loss=0.25, seed=seed)
        a, b = network.join("a"), network.join("b")
        b.serve("/t/1", hear)
        for i in range(200):
            await a.tell("b", "/t/1", bytes([i]))
        await trio.sleep(10)

    run(main)
    return sorted(heard)


def test_luck_depends_on_the_seed_alone():
    first = arrivals(1)
    assert first == arrivals(1)
    assert first != arrivals(2)
    assert 120 <= len(first) <= 180  # 150 are expected, with a deviation of 6
    times = [at_s for _, at_s in first]
    assert 0.1 <= min(times) < 0.15
    assert 0.45 < max(times) <= 0.5


def test_partitions_are_silent_and_heal():
    async def main():
        network = MemoryNetwork(delay_s=0.1)
        nodes = {name: network.join(name) for name in "abcd"}
        events = []
        nodes["a"].watch(events.append)
        for node in nodes.values():
            node.serve("/echo/1", echo)
        network.part("ab", "cd")
        assert await nodes["a"].ask("b", "/echo/1", b"x", timeout_s=1) == b"x"
        with pytest.raises(PeerLostError):
            await nodes["a"].ask("c", "/echo/1", b"x", timeout_s=1)
        network.heal()
        assert await nodes["a"].ask("c", "/echo/1", b"x", timeout_s=1) == b"x"
        assert events == [Up("b"), Up("c"), Up("d")]

    run(main)


def test_both_sides_notice_who_leaves_and_who_comes_again():
    async def main():
        network = MemoryNetwork()
        a, b = network.join("a"), network.join("b")
        seen = {"a": [], "b": []}
        a.watch(seen["a"].append)
        b.watch(seen["b"].append)
        network.leave("b")
        network.join("b")
        assert [type(e) for e in seen["a"]] == [Up, Down, Up]
        assert [type(e) for e in seen["b"]] == [Up, Down]

    run(main)


def test_an_answer_to_one_who_left_is_lost():
    async def main():
        network = MemoryNetwork(delay_s=1.0)
        a, b = network.join("a"), network.join("b")
        b.serve("/echo/1", echo)
        with trio.move_on_after(1.5):
            await a.ask("b", "/echo/1", b"", timeout_s=5)
        network.leave("a")
        with pytest.raises(PeerLostError):
            await b.ask("a", "/echo/1", b"", timeout_s=5)

    run(main)
