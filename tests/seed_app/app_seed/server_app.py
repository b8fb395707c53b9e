import json
from collections import Counter
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from app_seed.rules import NODES, ROUNDS, RULES, START
from fedcore.coordinator import coordinate
from fedcore.flower import FlowerLink, LinkLimits
from fedcore.pacing import Synchronous
from fedcore.params import digest

app = ServerApp()


class Watched:
    """A grid that writes down what goes to each node."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.whole, self.named, self.size_bytes = Counter(), Counter(), Counter()
        self.get_node_ids = grid.get_node_ids
        self.pull_messages = grid.pull_messages

    def push_messages(self, messages):
        for message in messages:
            if "work" in message.content:
                self.note(message.metadata.dst_node_id, message.content)
        return self.grid.push_messages(messages)

    def note(self, node, records):
        trees = [r for r in records.values() if isinstance(r, ArrayRecord)]
        (self.whole if "arrays" in records else self.named)[node] += 1
        self.size_bytes[node] += sum(len(a.data) for r in trees for a in r.values())


@app.main()
def main(grid: Grid, context: Context) -> None:
    watched = Watched(grid)
    link = FlowerLink(watched, LinkLimits(wait_for=NODES))
    pacer = Synchronous(cohort=NODES, quorum=NODES)
    state = coordinate(RULES, pacer, link, START, ROUNDS)
    done = {
        "sha256": digest(state.params),
        "whole": list(watched.whole.values()),
        "named": list(watched.named.values()),
        "size_bytes": list(watched.size_bytes.values()),
    }
    Path(str(context.run_config["out"])).write_text(json.dumps(done))
