"""``fedcore sim write``: what a run's language model writes, before and after."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from clients.tasks.lm.generate import written
from clients.tasks.lm.offsite import PluggedIn
from clients.tasks.lm.tasks import LanguageTask
from clients.tasks.loading import recipe
from clients.trainers.method import reproducible
from fedcore.errors import ConfigError, StorageError
from fedcore.params import Params, size_bytes
from fedcore.task import load
from sims.cli.tables import pairs, say, say_json
from sims.report.chart import number
from sims.runs.finding import find, summary
from sims.runs.folder import RunFolder
from sims.runs.run import Setup, prepare
from sims.runs.sitting import check_same_data, stored_config

SHOWN = ("perplexity", "loss", "accuracy", "exact_match")


def write(args: argparse.Namespace) -> int:
    """Say how well a run's model reads held-out examples, and let it go on writing.

    Raises:
        ConfigError: the run learned something else than to write, or the prompt is
            empty.
        StorageError: its model is missing or damaged.
    """
    folder = find(Path(args.out), args.run)
    config = stored_config(folder)
    task = recipe(config.task.name, config.task.settings)
    if not (isinstance(task, LanguageTask) and task.writes):
        raise ConfigError(
            f"{folder.name} learned {config.task.name!r}, whose model writes no text: "
            "`fedcore data list` shows the tasks, those of the next token do"
        )
    learned = _learned(folder)
    setup = prepare(config)
    check_same_data(setup, folder.manifest())
    with reproducible():
        told = [_told(task, setup, params, args) for params in (setup.start, learned)]
    ended, core = summary(folder), task.pretrained().core
    value = {
        "run": folder.name,
        "rounds": ended["rounds"],
        "before": told[0],
        "after": told[1],
        "down_bytes": ended["answer_down_bytes"],
        "up_bytes": ended["answer_up_bytes"],
        "model_bytes": size_bytes(dict(core.named_parameters())),
    }
    if args.json:
        say_json([value])
    else:
        say(pairs(_lines(value, args.prompt)))
    return 0


def _learned(folder: RunFolder) -> Params:
    """Return the model at the end of the run."""
    path = folder.path / "model.safetensors"
    try:
        return safetensors.torch.load(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder.name} has no model yet: `fedcore sim resume` finishes it"
        ) from error
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def _told(
    task: LanguageTask, setup: Setup, params: Params, args: argparse.Namespace
) -> dict[str, Any]:
    """Return figures and text of the model with ``params``."""
    model = load(setup.dataset.new_model(), params)
    figures = setup.dataset.whole().evaluate(model)
    base, measure = task.pretrained(), setup.dataset.measure
    with torch.no_grad():
        text = written(
            measure.full(model) if isinstance(measure, PluggedIn) else model,
            base.words,
            args.prompt,
            args.tokens,
            context=task.room(base),
            seed=None if args.greedy else args.seed,
        )
    return {**{k: figures[k] for k in SHOWN if k in figures}, "text": text}


def _lines(value: Mapping[str, Any], prompt: str) -> Mapping[str, str]:
    """Return what is said to people: label -> text."""
    before, after = value["before"], value["after"]
    figures = {
        f"held-out {name}": f"{before[name]:.4g} before, {after[name]:.4g} after"
        for name in SHOWN
        if name in before
    }
    sent = {k: number(value[f"{k}_bytes"], "bytes") for k in ("down", "up", "model")}
    times = value["model_bytes"] / max(1.0, value["up_bytes"])
    more = f", {times:.3g} times what was sent back" if times > 1.1 else ""
    return {
        "run": f"{value['run']}, {value['rounds']} rounds",
        **figures,
        "a client's round": f"↓{sent['down']} ↑{sent['up']}; averaging whole models "
        f"takes {sent['model']} each way{more}",
        "before": _line(prompt, before["text"]),
        "after": _line(prompt, after["text"]),
    }


def _line(prompt: str, text: str) -> str:
    """Return what was written on one line, behind its prompt."""
    return f"[{prompt}]{text}".replace("\n", " / ")
