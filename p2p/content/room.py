"""Which blobs go when room is short: of those that may, who was used longest ago."""

from collections.abc import Mapping

from fedcore.errors import StorageError
from p2p.content.cid import Cid
from p2p.content.kept import Kept


def for_bytes(
    kept: Mapping[Cid, Kept], total_bytes: int, size_bytes: int, quota_bytes: int
) -> list[Cid]:
    """Return what has to go so that ``size_bytes`` more fit in the quota.

    Raises:
        StorageError: too little may go.
    """
    short = total_bytes + size_bytes - quota_bytes
    going = []
    for cid, one in sorted(kept.items(), key=lambda item: item[1].used):
        if short > 0 and one.may_go:
            going.append(cid)
            short -= one.cost_bytes
    if short > 0:
        raise StorageError(
            f"no room for {size_bytes} bytes: the quota of {quota_bytes} is short by "
            f"{short}; unpin or remove blobs, or raise the quota"
        )
    return going


def for_part(kept: Mapping[Cid, Kept], most: int) -> list[Cid]:
    """Return what has to go so that there are at most ``most`` parts after one more.

    Raises:
        StorageError: all of them are being fetched.
    """
    parts = {cid: one for cid, one in kept.items() if not one.whole}
    if len(parts) < most:
        return []
    idle = [cid for cid in parts if parts[cid].may_go]
    if not idle:
        raise StorageError(
            f"{len(parts)} blobs are being fetched already; wait, or cancel one"
        )
    return [min(idle, key=lambda cid: parts[cid].used)]
