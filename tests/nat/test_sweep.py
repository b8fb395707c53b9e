"""A lab removes what killed labs have left behind, and nobody else's namespaces."""

from pathlib import Path

import pytest

from sims.natlab.spaces import ip, sweep

pytestmark = [pytest.mark.netns, pytest.mark.slow]
OURS, OTHERS = "fedcore-lab-0-net", "fc0-net"  # no process has the number 0


def test_only_namespaces_of_dead_labs_are_removed():
    ip("", *(f"netns add {name}" for name in (OURS, OTHERS)))
    try:
        sweep()
        assert not Path("/run/netns", OURS).exists()
        assert Path("/run/netns", OTHERS).exists()
    finally:
        ip("", f"netns del {OTHERS}")
