"""The inner loop that every gradient trainer shares.

Two ways lead through it. Stacks of plain layers under cross-entropy go through
``clients.trainers.fused``, forward and backward by hand; everything else goes
through autograd. Which way depends on the task and its data alone, so a task gives
the same bits in a plain loop, in a simulation, through Flower and on a mesh, alone
or in a cohort.
"""

from collections.abc import Sequence

from clients.trainers import autograd, feed, fused
from clients.trainers.duties import duty_of
from clients.trainers.method import Method, device_of
from clients.trainers.plan import Plan, plan_for
from clients.trainers.rules import Rule
from fedcore.strategy import PeerId, Update, Work
from fedcore.task import Task

ALONE = frozenset({"do", "lr", "mu"})  # hints that are for one model only


def descend(task: Task, work: Work, peer: PeerId, method: Method, rule: Rule) -> Update:
    """Train on ``task`` and return how far the model moved, or do another duty.

    Raises:
        ConfigError: the trainer's device does not exist.
        ProtocolError: the work does not fit the task's model, or asks for a duty
            that nobody here knows.
    """
    if "do" in work.hints:
        return duty_of(work)(task, work, peer, method, rule)
    plan = _plan(task, method)
    if plan and (entry := feed.entry(task, work, peer, plan)):
        return fused.train([entry], plan, rule, method.clip_norm)[0]
    return autograd.train(task, work, peer, method, rule)


def cohort_of(task: Task, work: Work, method: Method) -> Plan | None:
    """Return the plan if plain SGD on jobs with the same one may go together.

    Its steps are matrix products, each model by itself. What comes with the work
    is for one model only.
    """
    asked = work.aux or not ALONE.isdisjoint(work.hints)
    plan = None if asked or method.clip_norm else _plan(task, method)
    return plan if plan and plan.many else None


def descend_together(
    jobs: Sequence[tuple[Task, Work, PeerId]], plan: Plan, method: Method, rule: Rule
) -> list[Update]:
    """Train jobs with one ``cohort_of`` and version at once; bits as one by one."""
    entries = [feed.entry(*job, plan) for job in jobs]
    updates: dict[int, Update] = {}
    for rows in {e.rows for e in entries if e}:
        same = {i: e for i, e in enumerate(entries) if e and e.rows == rows}
        done = fused.train(list(same.values()), plan, rule, 0.0)
        updates |= zip(same, done, strict=True)
    for i, (job, e) in enumerate(zip(jobs, entries, strict=True)):
        if e is None:
            updates[i] = autograd.train(*job, method, rule)
    return [updates[i] for i in range(len(jobs))]


def _plan(task: Task, method: Method) -> Plan | None:
    return plan_for(task) if device_of(method.device).type == "cpu" else None
