"""Engines that do many peers' local trainings on one machine; same bits from each."""

from sims.engine.choose import make_engine
from sims.engine.protocol import Engine, Job

__all__ = ["Engine", "Job", "make_engine"]
