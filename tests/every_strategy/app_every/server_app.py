import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from app_every.rules import NODES, ROUNDS, START, rules_of
from fedcore.coordinator import coordinate
from fedcore.flower import FlowerLink, LinkLimits
from fedcore.pacing import Synchronous
from fedcore.params import digest

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    link = FlowerLink(grid, LinkLimits(wait_for=NODES))
    pacer = Synchronous(cohort=NODES, quorum=NODES)
    done = {
        name: digest(coordinate(rules_of(name), pacer, link, START, rounds).params)
        for name, rounds in ROUNDS.items()
    }
    Path(str(context.run_config["out"])).write_text(json.dumps(done))
