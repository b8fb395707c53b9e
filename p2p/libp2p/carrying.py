"""Two streams become one: what a relay does with the bytes of a circuit."""

import logging
from collections.abc import Callable

import trio
from libp2p.abc import INetStream

from fedcore.names import shown
from p2p.libp2p.hops import let_go

READ_BYTES = 1 << 16
WRITE_S = 10.0  # an end that takes nothing for so long loses its circuit
log = logging.getLogger(__name__)


async def carry(
    one: INetStream,
    other: INetStream,
    *,
    max_bytes: int,
    max_s: float,
    count: Callable[[int], None],
) -> str:
    """Pass bytes on, both ways, until an end or a limit ends it; return why, in words.

    Args:
        one: an end; both are gone when this returns.
        other: the other end.
        max_bytes: limit of both directions together.
        max_s: limit of time, in seconds; an idle circuit ends then, too.
        count: told the size, in bytes, of all that was passed on.
    """
    left = [max_bytes]
    why = "its time was over"

    async def pass_on(source: INetStream, target: INetStream) -> None:
        nonlocal why
        why = await _pass_on(source, target, left, count)
        both.cancel_scope.cancel()

    try:
        with trio.move_on_after(max_s):
            async with trio.open_nursery() as both:
                both.start_soon(pass_on, one, other)
                both.start_soon(pass_on, other, one)
    finally:
        await let_go(one, other)
    return why


async def _pass_on(
    source: INetStream,
    target: INetStream,
    left: list[int],
    count: Callable[[int], None],
) -> str:
    try:
        while data := await source.read(READ_BYTES):
            left[0] -= len(data)
            if left[0] < 0:
                return "its bytes were used up"
            with trio.fail_after(WRITE_S):
                await target.write(data)
            count(len(data))
    except Exception as error:  # noqa: BLE001 - either end may break in any way
        log.debug("a circuit broke: %s", shown(str(error)))
        return "an end broke"
    return "an end hung up"
