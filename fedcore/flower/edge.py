"""An edge aggregator as a Flower client of the federation above it.

Its server needs a gate that takes sums: ``Rules(strategy, pacer, Gate(ring=True))``,
or ``AsFlower(strategy, gate=Gate(ring=True))``.
"""

from collections.abc import Callable

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedcore.coordinator import Link
from fedcore.flower.client import client_app
from fedcore.hierarchy.edge import Branch, Edge, Expects, LinkEdge, like_the_model
from fedcore.task import Task, Trainer


def edge_app(
    load_branch: Callable[[Context], Branch],
    trainer: Trainer,
    expects: Expects = like_the_model,
) -> ClientApp:
    """Return a ClientApp that trains several peers and answers with their sum.

    Args:
        load_branch: returns the tasks of this node's peers, by name; the names must
            be unique in the whole federation, as the peers' seeds come from them.
        trainer: what each of these peers does.
        expects: the form of a peer's answer, as ``Strategy.expects`` gives it.
    """
    return client_app(load_branch, Edge(trainer, expects=expects))


def relay_app(
    load_task: Callable[[Context], Task],
    link: Link,
    quorum: int = 1,
    expects: Expects = like_the_model,
) -> ClientApp:
    """Return a ClientApp that passes work on to a federation of its own.

    Args:
        load_task: returns what the node evaluates models on.
        link: to the peers below, such as ``FlowerLink`` on a grid of their own; it
            must live as long as the node's process.
        quorum: fewest answers from below that are worth an answer.
        expects: the form of a peer's answer, as ``Strategy.expects`` gives it.
    """
    return client_app(load_task, LinkEdge(link, quorum, expects=expects))
