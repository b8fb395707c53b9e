"""Our strategies under Flower, and Flower's clients under our strategies.

Three ways in, from least to most:

    AsFlower(FedAdam()).start(grid, arrays)           in your ServerApp, your clients
    client_app(load_task, SGD(lr=0.1))                our trainers as your ClientApp
    Coordinator(rules, FlowerLink(grid)).run(...)     any pacer, journal, resumption

Flower owns messages, retries, Ray and the SuperLink; the strategy owns the
mathematics. The names that seed everything are peers' names, never Flower's random
node ids, so a run under Flower has the same bits as the plain loop.
"""

from fedcore.flower.client import client_app, client_app_of
from fedcore.flower.link import FlowerLink, LinkLimits
from fedcore.flower.records import pack_update, pack_work, unpack_update, unpack_work
from fedcore.flower.strategy import AsFlower

__all__ = [
    "AsFlower",
    "FlowerLink",
    "LinkLimits",
    "client_app",
    "client_app_of",
    "pack_update",
    "pack_work",
    "unpack_update",
    "unpack_work",
]
