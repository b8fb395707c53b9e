"""Who is welcome, once it has proved who it is."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from fedcore.errors import ProtocolError
from fedcore.names import PeerId
from p2p.identity.dates import shown_date
from p2p.identity.openings import Opening, check_opening
from p2p.members.effects import Admitted, Reason, TurnedAway
from p2p.members.hello import Meeting, Proof, VersionError

SKEW_S = 86400.0  # two honest clocks may differ by so much


class TurnedAwayError(ProtocolError):
    """A peer is not welcome, for a reason that programs know."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason = reason


def _no_one(_peer: PeerId) -> bool:
    return False


def _welcome(_opening: Opening) -> str | None:
    return None


@dataclass(frozen=True)
class Policy:
    """Who is welcome. The functions are asked anew each time.

    Attributes:
        known: whether a peer was a member before; then its invite need not be valid
            still.
        banned: why a member was sent away; None if it was not (see ``Standing.why``).
        allowed: the only peers that are welcome; None for all members.
    """

    known: Callable[[PeerId], bool] = _no_one
    banned: Callable[[Opening], str | None] = _welcome
    allowed: Collection[PeerId] | None = None


def judged(policy: Policy, meeting: Meeting, proof: Proof, now_s: float) -> Admitted:
    """Return who the speaker proved to be.

    Args:
        policy: ours.
        meeting: who speaks, and our challenge.
        proof: what it said.
        now_s: what our clock shows, in seconds since 1970.

    Raises:
        ProtocolError: it proved nothing.
        TurnedAwayError: it did, and is not welcome.
    """
    opening = check_opening(proof.opening, meeting.network)
    peer = meeting.speaker
    if opening.peer != peer:
        raise ProtocolError(f"{peer} shows the opening of {opening.peer}")
    meeting.check(proof)
    _check_welcome(policy, opening, proof, now_s)
    words = f"{peer} is here as {opening.role}"
    if _is_skewed(proof, now_s):
        words += f"; {_clocks(proof, now_s)}: one of the two is wrong"
    program = proof.preamble.program
    return Admitted(
        "admitted", words, peer, opening=opening, boot=proof.boot, program=program
    )


def refusal(peer: PeerId, error: ProtocolError) -> TurnedAway:
    """Return what to say about ``peer``, whose words ended with ``error``."""
    if isinstance(error, TurnedAwayError):
        return turned_away(peer, error.reason, str(error))
    reason: Reason = "version" if isinstance(error, VersionError) else "forged"
    return turned_away(peer, reason, str(error))


def turned_away(peer: PeerId, reason: Reason, words: str) -> TurnedAway:
    """Return the note that ``peer`` is turned away."""
    return TurnedAway("turned-away", words, peer, reason=reason)


def _check_welcome(
    policy: Policy, opening: Opening, proof: Proof, now_s: float
) -> None:
    why = policy.banned(opening)
    if why is not None:
        raise TurnedAwayError("removed", why)
    if policy.allowed is not None and opening.peer not in policy.allowed:
        raise TurnedAwayError("unlisted", f"{opening.peer} is not on the allow-list")
    late = opening.expires_s is not None and now_s > opening.expires_s + SKEW_S
    if late and not policy.known(opening.peer):
        raise TurnedAwayError("expired", _expired(opening, proof, now_s))


def _expired(opening: Opening, proof: Proof, now_s: float) -> str:
    date = shown_date(opening.expires_s or 0)
    words = f"the invite of {opening.peer} expired on {date}; {_clocks(proof, now_s)}"
    if _is_skewed(proof, now_s):
        return f"{words}: one of the two is wrong, set it"
    return f"{words}: ask for a new invite"


def _clocks(proof: Proof, now_s: float) -> str:
    theirs, ours = shown_date(proof.clock_s), shown_date(now_s)
    return f"its clock shows {theirs}, ours {ours}"


def _is_skewed(proof: Proof, now_s: float) -> bool:
    return abs(proof.clock_s - now_s) > SKEW_S
