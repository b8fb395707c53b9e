import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from app_every.rules import NODES, START, rounds_of, rules_of
from fedcore.coordinator import coordinate
from fedcore.flower import FlowerLink, LinkLimits
from fedcore.pacing import Synchronous
from fedcore.params import digest
from strategies import STRATEGIES

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    link = FlowerLink(grid, LinkLimits(wait_for=NODES))
    pacer = Synchronous(cohort=NODES, quorum=NODES)
    done = {
        name: digest(
            coordinate(rules_of(name), pacer, link, START, rounds_of(name)).params
        )
        for name in STRATEGIES
    }
    Path(str(context.run_config["out"])).write_text(json.dumps(done))
