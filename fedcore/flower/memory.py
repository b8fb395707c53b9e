"""What a peer keeps between messages: tensors in the state that Flower holds for it.

The state belongs to one run and one node and never leaves the node. The hint
``memory`` names the place, for programs that train several models in one run.
"""

from dataclasses import replace

from flwr.app import RecordDict

from fedcore.errors import ProtocolError
from fedcore.flower.trees import LAYOUT, check_name, pack_tree, unpack_tree
from fedcore.strategy import Update, Work


def recalled(state: RecordDict, work: Work) -> Work:
    """Return ``work`` with what the peer kept after its last answer."""
    key = _key(work)
    return replace(work, kept=unpack_tree(state, key)) if key in state else work


def remember(state: RecordDict, work: Work, update: Update) -> None:
    """Keep what ``update`` asks to keep, in place of what was kept before."""
    if update.keep:
        key = _key(work)
        state.pop(key + LAYOUT, None)
        state.update(pack_tree(key, update.keep, join=True))


def _key(work: Work) -> str:
    name = work.hints.get("memory", "")
    if not isinstance(name, str):
        raise ProtocolError(f"hint memory must be a word: {name!r:.40}")
    check_name(name or "memory")
    return f"fedcore.kept.{name}"
