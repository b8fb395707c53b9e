"""Small messages to everybody who listens, passed on from peer to peer, all signed.

A wrapper of gossipsub 1.1. Whatever arrives is signed by its author, no longer than
64 KiB and approved by the topic's own check before it is passed on; who sends what is
not loses its standing and is not listened to any more.

Departures: the library counts invalid messages in favour of their sender if their
weight is negative, as the specification has it; here it is positive. It loses messages
above 1 MiB, and any when 32 wait to be sent or to be heard; here they are refused, sent
later, and heard at once.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.tools.anyio_service import background_trio_service

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.keys import public_of
from p2p.libp2p.transport import Libp2pTransport
from p2p.transport import check_size

MAX_GOSSIP_BYTES = 1 << 16
INVALID_COST = 10.0  # of the standing of a peer, for each invalid message
IGNORED_BELOW = -50.0
MOST_QUEUED = 16  # to one peer; the library drops what exceeds twice as many
ROOM_S = 1.0
FORGIVEN = 0.97  # of that is left after a second
Hearer = Callable[[PeerId, bytes], None]
Check = Callable[[PeerId, bytes], bool]
log = logging.getLogger(__name__)


class Gossip:
    """Publishes and hears; in the trio thread of its transport."""

    def __init__(self, pubsub: Pubsub) -> None:
        """Use ``pubsub``, which must be running."""
        self._pubsub = pubsub

    async def publish(self, topic: str, body: bytes) -> None:
        """Send ``body`` to all who hear ``topic``; some of them may miss it.

        Raises:
            ProtocolError: ``body`` is longer than 64 KiB.
        """
        check_size(len(body), MAX_GOSSIP_BYTES)
        queues = self._pubsub.peer_queues
        with trio.move_on_after(ROOM_S):  # a peer that takes nothing misses it
            while any(len(q) >= MOST_QUEUED for q in queues.values()):  # noqa: ASYNC110
                await trio.sleep(0.005)
        await self._pubsub.publish(topic, body)

    async def hear(
        self, topic: str, hearer: Hearer, check: Check = lambda author, body: True
    ) -> None:
        """Call ``hearer`` with the author of each message on ``topic``, and its body.

        Args:
            topic: what it is about, such as "/pulse/1".
            hearer: must return at once; it is not called with our own messages.
            check: whether a message may be passed on; it must return at once.
        """

        def valid(source: ID, message: rpc_pb2.Message) -> bool:
            return _right(message) and check(_author(message), message.data)

        pubsub = self._pubsub
        pubsub.set_topic_validator(topic, valid, is_async_validator=False)
        await pubsub.subscribe(topic)
        ear = _Ear(hearer, str(pubsub.my_id))
        queue = pubsub.subscribed_topics_send.pop(topic)
        pubsub.subscribed_topics_send[topic] = cast(
            "trio.MemorySendChannel[rpc_pb2.Message]", ear
        )
        await queue.aclose()


class _Ear:
    """Takes the place of the library's queue, which loses what comes in a burst."""

    def __init__(self, hearer: Hearer, me: PeerId) -> None:
        self._hearer, self._me = hearer, me

    def send_nowait(self, message: rpc_pb2.Message) -> None:
        """Hand ``message`` on at once."""
        if (author := _author(message)) != self._me:
            self._hearer(author, message.data)

    async def aclose(self) -> None:
        """There is nothing to close."""


def _author(message: rpc_pb2.Message) -> PeerId:
    return str(ID(message.from_id))


def _right(message: rpc_pb2.Message) -> bool:
    """Return whether ``message`` is short, and by somebody who can be its signer."""
    try:
        check_size(len(message.data), MAX_GOSSIP_BYTES)
        public_of(_author(message))
    except ProtocolError as error:
        log.debug("gossip: %s", error)
        return False
    return True


def standing() -> ScoreParams:
    """Return how peers are judged."""
    return ScoreParams(
        p4_invalid_messages=TopicScoreParams(INVALID_COST, 1000.0, FORGIVEN),
        publish_threshold=IGNORED_BELOW,
        gossip_threshold=IGNORED_BELOW,
        graylist_threshold=IGNORED_BELOW,
    )


@asynccontextmanager
async def open_gossip(transport: Libp2pTransport) -> AsyncIterator[Gossip]:
    """Gossip over ``transport`` while the block runs; before anybody is connected.

    Also a ``Part`` of ``Libp2pConfig``.
    """
    router = GossipSub(
        protocols=[PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        score_params=standing(),
        max_messages_per_topic_per_second=100.0,  # of one peer
        min_mesh_diversity_ips=1,  # several peers behind one router are usual
    )
    pubsub = Pubsub(
        transport.host,
        router,
        strict_signing=True,
        max_inbound_rpc_size=4 * MAX_GOSSIP_BYTES,
    )
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        yield Gossip(pubsub)
