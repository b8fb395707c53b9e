"""A relay for peers that nobody can reach: libp2p's circuit relay v2, the server.

A peer behind a NAT *reserves*: as long as its connection and its reservation last,
others may ask the relay for a *circuit* to it, a stream whose bytes the relay passes
on and cannot read. The library's own server lets a peer reserve in another's name,
closes all circuits of a peer when one of them ends, and never ends an idle one; so
only its messages and streams are used here.

Source: circuit relay v2, https://github.com/libp2p/specs/blob/master/relay
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import trio
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    HopMessage,
    Limit,
    Reservation,
    Status,
    StopMessage,
)
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as PeerMessage

from fedcore.errors import ProtocolError
from fedcore.names import PeerId, shown
from p2p.libp2p.allowance import RelayCounts, RelayLimits
from p2p.libp2p.carrying import carry
from p2p.libp2p.hops import (
    HOP,
    STOP,
    direct,
    heard,
    ip_of,
    is_relayed,
    let_go,
    peer_of_bytes,
    relay_addresses,
    said,
)

RING_S = 10.0  # longest wait for a stream to the target
MAX_REASONS = 64
log = logging.getLogger(__name__)


class _RefusalError(Exception):
    """A request that gets a status other than OK; never leaves this file."""

    def __init__(self, status: "Status.ValueType", why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(slots=True)
class _Held:
    """A reservation: until when, on trio's clock, and from where."""

    until_s: float
    ip: str


@dataclass(frozen=True, slots=True)
class _Circuit:
    """Two streams that are one to their ends."""

    one: INetStream
    other: INetStream
    source: PeerId
    target: PeerId


class Relay:
    """Serves reservations and circuits on a host while it is open.

    Everything happens in the host's own trio thread.
    """

    def __init__(
        self,
        host: IHost,
        limits: RelayLimits | None = None,
        allow: Callable[[PeerId], bool] = lambda peer: True,
    ) -> None:
        """Serve ``host``, which listens on addresses that others can dial.

        Args:
            host: a running host.
            limits: what it gives at most.
            allow: whether a peer may reserve, or be an end of a circuit; a relay of
                one network asks its list of members here. Asked at every request.
        """
        self.host = host
        self.limits = limits or RelayLimits()
        self.allow = allow
        self.counts = RelayCounts()
        self._held: dict[PeerId, _Held] = {}
        self._ends: Counter[PeerId] = Counter()
        self._requests: Counter[PeerId] = Counter()

    def open(self) -> None:
        """Begin to serve."""
        self.host.set_stream_handler(HOP, self._serve)

    def close(self) -> None:
        """Take no more requests; open circuits last until their connections end."""
        self.host.remove_stream_handler(HOP)
        self._held.clear()

    def reserved(self) -> list[PeerId]:
        """Return the peers that can be reached through here now, sorted."""
        now_s = trio.current_time()
        for peer, held in list(self._held.items()):
            gone = held.until_s < now_s or not direct(self.host, peer)
            if gone or not self.allow(peer):
                del self._held[peer]
        return sorted(self._held)

    def open_circuits(self) -> int:
        """Return how many circuits are open, or being opened, now."""
        return self._ends.total() // 2

    async def _serve(self, stream: INetStream) -> None:
        """Answer the one request of a stream, and carry the circuit it asked for."""
        peer = str(stream.muxed_conn.peer_id)
        if self._requests[peer] >= self.limits.requests_per_peer:
            self._count(self.counts.refused, "too many requests at once")
            await let_go(stream)
            return
        self._requests[peer] += 1
        circuit: _Circuit | None = None
        try:
            circuit = await self._answer(stream, peer)
        except _RefusalError as no:
            await self._refuse(stream, peer, no)
        except Exception as error:  # noqa: BLE001 - however a peer's stream may break
            log.debug("relay: a request of %s broke: %s", peer, shown(str(error)))
            await let_go(stream)
        finally:
            _take(self._requests, peer)
        if circuit is not None:
            await self._carry(circuit)

    async def _answer(self, stream: INetStream, peer: PeerId) -> _Circuit | None:
        request = await heard(stream, HopMessage)
        if is_relayed(stream):
            raise _RefusalError(Status.PERMISSION_DENIED, "came through another relay")
        if not self.allow(peer):
            raise _RefusalError(Status.PERMISSION_DENIED, "is not allowed here")
        if request.type == HopMessage.CONNECT:
            return await self._connect(stream, peer, request.peer.id)
        if request.type != HopMessage.RESERVE:
            raise _RefusalError(Status.UNEXPECTED_MESSAGE, "asked for nothing")
        await said(stream, self._reserve(stream, peer))
        await stream.close()
        return None

    async def _refuse(
        self, stream: INetStream, peer: PeerId, no: _RefusalError
    ) -> None:
        self._count(self.counts.refused, str(no))
        log.info("relay: refused %s: %s", peer, no)
        try:
            await said(stream, HopMessage(type=HopMessage.STATUS, status=no.status))
            await stream.close()
        except Exception:  # noqa: BLE001 - it may be gone already; nothing is lost
            await let_go(stream)

    def _reserve(self, stream: INetStream, peer: PeerId) -> HopMessage:
        """Hold a place for the peer that asks; whom its message names is not read."""
        ip, limits = ip_of(stream), self.limits
        others = [self._held[other] for other in self.reserved() if other != peer]
        near = sum(held.ip == ip for held in others)
        if len(others) >= limits.reservations or near >= limits.reservations_per_ip:
            raise _RefusalError(Status.RESERVATION_REFUSED, "no place is left")
        self._held[peer] = _Held(trio.current_time() + limits.reservation_s, ip)
        paper = Reservation(
            expire=int(time.time()) + limits.reservation_s,
            addrs=[address.to_bytes() for address in relay_addresses(self.host)],
        )
        return self._granted(reservation=paper)

    def _granted(self, reservation: Reservation | None = None) -> HopMessage:
        return HopMessage(
            type=HopMessage.STATUS,
            status=Status.OK,
            reservation=reservation,
            limit=self._limit(),
        )

    def _limit(self) -> Limit:
        return Limit(duration=self.limits.circuit_s, data=self.limits.circuit_bytes)

    async def _connect(
        self, stream: INetStream, source: PeerId, wanted: bytes
    ) -> _Circuit:
        target = self._target(source, wanted)
        self._ends.update((source, target))
        other: INetStream | None = None
        try:
            other = await self._called(source, target)
            await said(stream, self._granted())
        except BaseException:
            self._end(source, target)
            await let_go(*([other] if other else []))
            raise
        self.counts.circuits += 1
        return _Circuit(stream, other, source, target)

    def _end(self, source: PeerId, target: PeerId) -> None:
        _take(self._ends, source)
        _take(self._ends, target)

    def _target(self, source: PeerId, wanted: bytes) -> PeerId:
        target = _id_text(wanted)
        if target not in self.reserved() or not self.allow(target):
            raise _RefusalError(Status.NO_RESERVATION, "the target has no reservation")
        limits, ends = self.limits, self._ends
        busy = max(ends[source], ends[target]) >= limits.circuits_per_peer
        if busy or self.open_circuits() >= limits.circuits:
            raise _RefusalError(Status.RESOURCE_LIMIT_EXCEEDED, "too many circuits")
        return target

    async def _called(self, source: PeerId, target: PeerId) -> INetStream:
        """Return a stream to ``target`` that it has accepted as ``source``'s."""
        try:
            other = await self._ring(source, target)
        except Exception as error:
            log.debug("relay: %s did not accept: %s", target, shown(str(error)))
            why = "the target did not accept"
            raise _RefusalError(Status.CONNECTION_FAILED, why) from error
        return other

    async def _ring(self, source: PeerId, target: PeerId) -> INetStream:
        with trio.fail_after(RING_S):
            other = await self.host.new_stream(ID.from_base58(target), [STOP])
        try:
            caller = PeerMessage(id=ID.from_base58(source).to_bytes())
            call = StopMessage(type=StopMessage.CONNECT, peer=caller)
            call.limit.CopyFrom(self._limit())
            await said(other, call)
            _check(await heard(other, StopMessage))
        except BaseException:
            await let_go(other)
            raise
        return other

    async def _carry(self, circuit: _Circuit) -> None:
        limits = self.limits
        try:
            why = await carry(
                circuit.one,
                circuit.other,
                max_bytes=limits.circuit_bytes,
                max_s=limits.circuit_s,
                count=self._carried,
            )
            self._count(self.counts.ended, why)
        finally:
            self._end(circuit.source, circuit.target)

    def _carried(self, size_bytes: int) -> None:
        self.counts.carried_bytes += size_bytes

    def _count(self, table: Counter[str], why: str) -> None:
        if why in table or len(table) < MAX_REASONS:
            table[why] += 1


def _take(counts: Counter[PeerId], peer: PeerId) -> None:
    """Count ``peer`` down and forget it at zero, so that the table stays small."""
    counts[peer] -= 1
    if counts[peer] <= 0:
        del counts[peer]


def _check(answer: StopMessage) -> None:
    if answer.type != StopMessage.STATUS or answer.status != Status.OK:
        raise ConnectionError(f"it answered with status {answer.status}")


def _id_text(raw: bytes) -> PeerId:
    try:
        return peer_of_bytes(raw)
    except ProtocolError:
        why = "the target is no peer id"
        raise _RefusalError(Status.MALFORMED_MESSAGE, why) from None
