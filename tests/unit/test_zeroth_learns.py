"""Forward passes alone teach a real model something, in seconds."""

import pytest

from sims.bench.watch import Trial, curve

DIGITS = (
    *("task.name=digits", "task.model=linear", "run.clients=5", "run.personal=0"),
    *("strategy.steps=20", "strategy.lr=0.03", "run.rounds=20"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedkseed", "fedkseed-pro", "one-byte", "mezo"])
def test_digits_are_told_apart(name):
    """Guessing is right in a tenth."""
    last = curve(Trial((*DIGITS, f"strategy.name={name}"), every=20))[-1]
    assert last.accuracy > 0.6
