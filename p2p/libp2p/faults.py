"""The border where libp2p's and trio's errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError

from fedcore.errors import FedError, PeerLostError, ProtocolError
from fedcore.names import PeerId

MAX_DEPTH, MAX_CHARS = 16, 200


@contextmanager
def translated(peer: PeerId, topic: str) -> Iterator[None]:
    """Turn what goes wrong between us and ``peer`` on ``topic`` into our own errors.

    Raises:
        ProtocolError: the peer does not serve ``topic``.
        PeerLostError: anything else that libp2p raised.
    """
    try:
        yield
    except FedError:
        raise
    except ProtocolNotSupportedError:
        raise ProtocolError(f"{peer} does not serve {topic}") from None
    except Exception as error:
        raise PeerLostError(f"{peer} failed on {topic}: {said(error)}") from error


def said(error: BaseException) -> str:
    """Return in one line why libp2p failed: what the deepest cause says."""
    text = ""
    at: BaseException | None = error
    for _ in range(MAX_DEPTH):
        if at is None:
            break
        if isinstance(at, BaseExceptionGroup):
            at = at.exceptions[0]
            continue
        words = at.strerror if isinstance(at, OSError) and at.strerror else str(at)
        text = words.splitlines()[0] if words.strip() else text
        at = at.__cause__
    return text[:MAX_CHARS] or type(error).__name__
