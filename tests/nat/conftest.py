"""Tests marked ``netns`` are skipped, with the reason, where no lab can be made."""

from functools import cache

import pytest

from sims.natlab.spaces import why_not

reason = cache(why_not)


@pytest.fixture(autouse=True)
def _lab_is_possible(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("netns") and reason():
        pytest.skip(str(reason()))
