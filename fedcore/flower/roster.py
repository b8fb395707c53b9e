"""Which Flower node is which peer.

Flower's node ids are random and change with every run and every reconnection, so
they can neither seed a peer's batches nor key what the server remembers of it.
Each node is therefore asked once for its name, with a ``query.whoami`` message; our
client app answers from its ``node_config``. A claim is worth as much as Flower's
own authentication of nodes: with it, pin names to the registered node ids.
"""

import logging
import re
from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedcore.errors import ProtocolError
from fedcore.flower.calls import online, pull, push
from fedcore.flower.trees import record_of
from fedcore.strategy import PeerId, peer_name

WHOAMI = "whoami"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CLIENT_FAULTS = {1, 2, 6, 7}  # error codes that asking again would not change
WORDS = {  # Flower's error codes
    0: "failed",
    1: "could not load its ClientApp",
    2: "raised an exception",
    3: "did not answer before the message expired",
    4: "lost its answer",
    5: "is not online any more",
    6: "refused in a mod",
    7: "holds another app",
    8: "crashed",
}

log = logging.getLogger(__name__)


def reason_of(error: Error) -> str:
    """Return what went wrong at a node, in one line."""
    words = WORDS.get(error.code, f"failed with code {error.code}")
    detail = " ".join((error.reason or "").split())
    return f"{words}: {detail:.500}" if detail else words


def own_name(context: Context) -> PeerId:
    """Return the name of the peer that ``context`` belongs to.

    The node's ``peer`` setting, or ``peer_name`` of its ``partition-id``, or a name
    made from the node id, which is new in every run.
    """
    config = context.node_config
    if "peer" in config:
        return str(config["peer"])
    if "partition-id" in config:
        return peer_name(int(config["partition-id"]))
    return f"node-{context.node_id}"


def whoami_reply(message: Message, context: Context) -> Message:
    """Answer a ``query.whoami`` message."""
    record = ConfigRecord({"peer": own_name(context)})
    return Message(RecordDict({WHOAMI: record}), reply_to=message)


class Roster:
    """Who is online, by name. The first node to claim a name holds it while online."""

    def __init__(
        self, grid: Grid, pinned: Mapping[int, PeerId] | None = None, ttl_s: float = 300
    ) -> None:
        """Ask nodes on ``grid``; nodes in ``pinned`` are known and never asked.

        Args:
            grid: where the nodes are.
            pinned: node id -> name; nobody else can have these names.
            ttl_s: how long a question may go unanswered before it is asked again.
        """
        self._grid = grid
        self._pinned = dict(pinned or {})
        self._ttl_s = ttl_s
        self._claims: dict[int, PeerId] = {}  # in the order in which they came
        self._asked: dict[str, int] = {}  # message id -> node
        self._refused: dict[int, str] = {}  # node -> why
        self._online: list[int] = []

    def look(self) -> Mapping[PeerId, int]:
        """Return the nodes online by name; asks the new ones and hears answers."""
        self._online = online(self._grid)
        known = {*self._pinned, *self._claims, *self._refused, *self._asked.values()}
        self._ask([node for node in self._online if node not in known])
        if self._asked:
            for reply in pull(self._grid, self._asked):
                self._hear(reply)
        return self.named()

    def named(self) -> dict[PeerId, int]:
        """Return name -> node for those seen online by the last ``look``."""
        here = set(self._online)
        names = {name: node for node, name in self._pinned.items() if node in here}
        taken = set(self._pinned.values())
        for node, name in self._claims.items():
            if node not in here:
                continue
            if name in names or name in taken:
                self._refuse(node, f"the name {name!r} is taken")
            else:
                self._refused.pop(node, None)
                names[name] = node
        return names

    @property
    def refused(self) -> Mapping[int, str]:
        """Nodes that take no part, with the reason."""
        return dict(self._refused)

    def _ask(self, nodes: Sequence[int]) -> None:
        if not nodes:
            return
        messages = [
            Message(
                RecordDict({WHOAMI: ConfigRecord({"protocol": 1})}),
                dst_node_id=node,
                message_type=f"{MessageType.QUERY}.{WHOAMI}",
                ttl=self._ttl_s,
            )
            for node in nodes
        ]
        ids = push(self._grid, messages)
        self._asked |= {i: n for i, n in zip(ids, nodes, strict=True) if i}

    def _hear(self, reply: Message) -> None:
        node = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if node is None:
            return
        if reply.has_error():
            if reply.error.code in CLIENT_FAULTS:
                self._refuse(node, reason_of(reply.error))
            return  # otherwise it is asked again when seen again
        try:
            self._claims[node] = _claim(reply.content)
        except ProtocolError as cause:
            self._refuse(node, str(cause))

    def _refuse(self, node: int, reason: str) -> None:
        if self._refused.get(node) != reason:
            log.warning("node %d takes no part: %s", node, reason)
            self._refused[node] = reason


def _claim(records: RecordDict) -> PeerId:
    name = record_of(records, WHOAMI, ConfigRecord).get("peer")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ProtocolError("a name has 1 to 64 letters, digits, '.', '_' or '-'")
    return name
