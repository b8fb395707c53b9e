"""Every kind of NAT with every kind: all connected, direct wherever theory allows.

Two homes of each kind, each with one real peer process; every peer of the first row
opens a channel with every one of the second, all at once from one data port.
"""

import itertools
import sys

import pytest

from sims.natlab.lab import Lab
from sims.natlab.routers import KINDS
from tests.nat import stage

pytestmark = [pytest.mark.netns, pytest.mark.slow]

STRICT = {"port-restricted", "shifting", "symmetric", "double", "no-udp"}


def theory(a, b):
    """A symmetric NAT is passed towards those who do not look at the port."""
    strict = (a == "symmetric" and b in STRICT) or (b == "symmetric" and a in STRICT)
    if strict:
        return "relayed"
    return "direct (public address)" if "open" in (a, b) else "direct (punched)"


def table(found):
    """Return the matrix as text: D direct, R relayed, - not connected."""
    short = {"direct": "D", "relayed": "R", None: "-"}
    lines = [f"{'':16}" + " ".join(f"{kind[:10]:10}" for kind in KINDS)]
    for a in KINDS:
        cells = [found[a, b] for b in KINDS]
        words = [
            f"{short[c and c['path'].split()[0]]} {c['took_s'] if c else '':<8}"
            for c in cells
        ]
        lines.append(f"{a:16}" + " ".join(words))
    return "\n".join(lines)


def test_all_kinds_with_all_kinds(capsys):
    with Lab() as lab:
        hubs = [stage.hub(lab, name)[0] for name in ("hub1", "hub2")]
        rows = {k: lab.home(f"a-{k}", k) for k in KINDS}
        columns = {k: lab.home(f"b-{k}", k) for k in KINDS}
        names = [place.name for place in columns.values()]
        a = {k: stage.peer(lab, rows[k], hubs, names) for k in KINDS}
        b = {k: stage.peer(lab, columns[k], hubs) for k in KINDS}
        kinds = list(itertools.product(KINDS, KINDS))
        opened = stage.all_opened([(a[i], b[j]) for i, j in kinds], 60)
    found = {pair: words for pair, (_, _, words) in zip(kinds, opened, strict=True)}
    with capsys.disabled():
        words = "first channel of each pair: D direct, R relayed; seconds"
        sys.stdout.write(f"\n{words}\n{table(found)}\n")
    assert [pair for pair in kinds if found[pair] is None] == []
    wrong = {
        (i, j): found[i, j]["path"]
        for i, j in kinds
        if not found[i, j]["path"].startswith(theory(i, j))
    }
    assert wrong == {}


def test_peers_learn_what_kind_of_nat_they_are_behind():
    expected = {
        "open": "OPEN",
        "port-restricted": "KEEPS",
        "shifting": "SHIFTS",
        "symmetric": "SYMMETRIC",
        "double": "KEEPS",
    }
    with Lab() as lab:
        hubs = [stage.hub(lab, name)[0] for name in ("hub1", "hub2")]
        peers = {
            kind: stage.peer(lab, lab.home(f"home-{kind}", kind), hubs)
            for kind in expected
        }
        found = {
            kind: peer.wait(lambda w: w["event"] == "here", 20)["nat"]
            for kind, peer in peers.items()
        }
    assert found == expected
