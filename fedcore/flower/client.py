"""A trainer as a Flower ClientApp."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcore.bases import Bases
from fedcore.flower.bases import base_of, lacking, shelf_of
from fedcore.flower.memory import recalled, remember
from fedcore.flower.records import pack_update, unpack_work
from fedcore.flower.roster import WHOAMI, own_name, whoami_reply
from fedcore.flower.trees import unpack_tree
from fedcore.strategy import Work
from fedcore.task import Task, Trainer, load


def client_app(load_task: Callable[[Context], Task], trainer: Trainer) -> ClientApp:
    """Return a Flower ClientApp that trains, evaluates and says who it is.

    Args:
        load_task: returns this node's share of the data; it is called for every
            message, so let it remember what is slow to load.
        trainer: what the strategy on the other side expects of its peers.
    """
    return client_app_of(lambda context: (load_task(context), trainer))


def client_app_of(load_both: Callable[[Context], tuple[Task, Trainer]]) -> ClientApp:
    """Return a ClientApp whose trainer, too, comes from the run's configuration."""
    app, bases = ClientApp(), Bases()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, trainer = load_both(context)
        opened = _opened(message.content, context, task, bases)
        if isinstance(opened, RecordDict):
            return Message(opened, reply_to=message)
        work = recalled(context.state, opened)
        update = trainer(task, work, own_name(context))
        remember(context.state, work, update)
        return Message(pack_update(update), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        task, _ = load_both(context)
        model = load(task.model(), unpack_tree(message.content, "arrays")).eval()
        with torch.no_grad():
            figures = task.evaluate(model)
        return Message(RecordDict({"metrics": _as_metrics(figures)}), reply_to=message)

    app.query(WHOAMI)(whoami_reply)
    return app


def _opened(
    records: RecordDict, context: Context, task: Task, bases: Bases
) -> Work | RecordDict:
    """Return the work with its model, or the answer that this node lacks the model.

    Raises:
        ProtocolError: the records are no work, or hold another model than they name.
    """
    work, name = unpack_work(records), base_of(records)
    if name is None:
        return work
    shelf = shelf_of(context.node_config)
    if work.params:
        return replace(work, params=bases.take(name, work.params, shelf))
    params = bases.find(name, task, shelf)
    return lacking(name) if params is None else replace(work, params=params)


def _as_metrics(figures: Mapping[str, float]) -> MetricRecord:
    """Return ``figures`` with the weight under Flower's name for it."""
    numbers = {k: float(v) for k, v in figures.items() if k != "examples"}
    return MetricRecord({**numbers, "num-examples": int(figures.get("examples", 1))})
