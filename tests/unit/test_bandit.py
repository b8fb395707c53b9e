"""The bandit: its index by hand, and regret that grows like a logarithm."""

from itertools import pairwise
from math import log, pi, sqrt

import pytest

from fedcore.errors import ConfigError
from fedcore.seeds import uniform
from strategies.bandit import BanditController, Record


def test_the_index_by_hand():
    """Two of eight pulls, rewards 0.5 and 0.75: 0.625 + √(2 ln 8 / 2)."""
    record = Record((2, 6), (1.25, 3.0))
    assert BanditController(2).index(record, 0) == pytest.approx(0.625 + sqrt(log(8)))
    assert BanditController(2, explore=0.0).index(record, 1) == 0.5


def test_every_arm_is_tried_first_in_an_order_of_the_device():
    bandit, orders = BanditController(6), {}
    for device in ("a", "b", "c"):
        record, order = bandit.new(), []
        for _ in range(6):
            order.append(bandit.pick(record, device))
            record = bandit.learn(record, order[-1], 0.5)
        assert sorted(order) == list(range(6))
        orders[device] = tuple(order)
    assert len(set(orders.values())) > 1


def test_learning_changes_one_arm_and_leaves_the_old_record():
    old = Record((1, 1), (0.5, 0.25))
    assert BanditController(2).learn(old, 1, 0.5) == Record((1, 2), (0.5, 0.75))
    assert old == Record((1, 1), (0.5, 0.25))


def test_of_equal_arms_the_first_is_pulled():
    assert BanditController(3).pick(Record((1, 2, 2), (0.9, 2.0, 2.0)), "a") == 0
    assert BanditController(3, explore=0.0).pick(Record((2, 2, 2), (1, 2, 2)), "a") == 1


class Device:
    """Seconds of each arm: its own mean times noise; the reward is being quick."""

    def __init__(self, name, arms):
        self.name = name
        self.means_s = [0.5 + 2.5 * uniform("device", name, arm) for arm in range(arms)]

    def reward(self, arm, time):
        noise = 0.5 + uniform("noise", self.name, arm, time)  # 0.5 to 1.5, mean 1
        return 1 - self.means_s[arm] * noise / 4.5  # in (0, 1)

    def worse(self, arm):
        """How much less ``arm`` earns on average than the best one."""
        return (self.means_s[arm] - min(self.means_s)) / 4.5


def regrets(device, bandit, checks):
    """Return the expected regret of the pulls made by each of the times ``checks``."""
    record, lost, seen = bandit.new(), 0.0, []
    for time in range(max(checks)):
        arm = bandit.pick(record, device.name)
        record = bandit.learn(record, arm, device.reward(arm, time))
        lost += device.worse(arm)
        if time + 1 in checks:
            seen.append(lost)
    return seen


CHECKS = (250, 1000, 4000)


@pytest.mark.parametrize(("explore", "share"), [(1.0, 0.5), (0.3, 0.1)])
def test_regret_is_sublinear_on_simulated_devices(explore, share):
    """Four times the pulls cost far less than four times the regret."""
    devices = [Device(f"d{i}", arms=6) for i in range(3)]
    bandit = BanditController(6, explore)
    runs = [regrets(d, bandit, CHECKS) for d in devices]
    totals = [sum(lost) for lost in zip(*runs, strict=True)]
    assert all(late < 2.6 * early for early, late in pairwise(totals))
    chance = sum(d.worse(arm) for d in devices for arm in range(6)) / 6 * CHECKS[-1]
    assert totals[-1] < share * chance


def test_regret_keeps_below_the_bound_of_ucb1():
    device, arms = Device("bound", 5), range(5)
    gaps = [g for arm in arms if (g := device.worse(arm)) > 0]
    found = regrets(device, BanditController(5), CHECKS)
    for time, lost in zip(CHECKS, found, strict=True):
        bound = sum(8 * log(time) / g for g in gaps) + (1 + pi**2 / 3) * sum(gaps)
        assert lost < bound


@pytest.mark.parametrize("wrong", [{"arms": 0}, {"arms": 2, "explore": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="arms >= 1"):
        BanditController(**wrong)
