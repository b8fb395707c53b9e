"""Which addresses to offer, and which of those offered to dial.

What a peer offers may be a list of victims. So at most ``MOST`` are dialled, each
once, never a port of the system, never many machines at once, at most
``MOST_HOSTS`` public machines, and a private address only where it can mean the
peer: in a network we are in, or when one router shows both of us to the world.
"""

import ipaddress
from collections.abc import Collection, Iterable, Sequence

import psutil

from p2p.nat.addresses import (
    KINDS,
    LOWEST_PORT,
    Address,
    Candidate,
    Ip,
    fault_of_ip,
    ip_of,
    is_private,
)

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST = 8  # candidates in a list
MOST_HOSTS = 3  # public machines that one list may make us dial


def interfaces(only: Collection[str] = ()) -> tuple[Interface, ...]:
    """Return this machine's addresses and networks, those of no use left out.

    Loopback is of use only to a machine that has nothing else, or shall use no other.

    Args:
        only: the addresses that may be used; all if empty.
    """
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    rows = [
        (row.address, row.netmask)
        for name, rows in sorted(psutil.net_if_addrs().items())
        for row in rows
        if name in up and row.family.name in ("AF_INET", "AF_INET6")
    ]
    found = [_interface(host, mask) for host, mask in rows if "%" not in host]
    fit = [i for i in found if fault_of_ip(i.ip) is None]
    if only:
        fit = [i for i in fit if str(i.ip) in only]
    return tuple([i for i in fit if not i.ip.is_loopback] or fit)


def _interface(host: str, mask: str | None) -> Interface:
    if ":" not in host:
        return ipaddress.ip_interface(f"{host}/{mask or 32}")
    bits = int(ipaddress.IPv6Address(mask or "ffff::")).bit_count()
    return ipaddress.ip_interface(f"{host}/{bits if mask else 128}")


def own_candidates(
    here: Iterable[Interface],
    port: int,
    observed: Iterable[Address] = (),
    mapped: Iterable[Address] = (),
) -> tuple[Candidate, ...]:
    """Return what to offer to others, the best first, at most ``MOST``.

    Args:
        here: this machine's interfaces.
        port: its data port.
        observed: how others see its data port.
        mapped: what its router forwards to the data port.
    """
    found = [_of_interface(i, port) for i in here]
    found += [Candidate("mapped", address) for address in mapped]
    found += [Candidate("observed", address) for address in observed]
    return _best(c for c in found if fault_of_ip(ip_of(c.address.host)) is None)


def _of_interface(interface: Interface, port: int) -> Candidate:
    private = is_private(interface.ip) or interface.ip.is_loopback
    address = Address(str(interface.ip), port)
    return Candidate("lan" if private else "public", address)


def dialable(
    theirs: Iterable[Candidate], mine: Sequence[Candidate], here: Sequence[Interface]
) -> tuple[Candidate, ...]:
    """Return which of ``theirs`` to dial, the best first, at most ``MOST``.

    Args:
        theirs: what a peer offered; any may be a lie.
        mine: what we offered.
        here: our interfaces.
    """
    listed = list(theirs)
    together = bool(_seen(listed) & _seen(mine))
    own = {c.address for c in mine}
    fit = [
        c
        for c in listed
        if c.address not in own and may_dial(c.address, here, together)
    ]
    return _few_hosts(_best(fit))


def _seen(candidates: Iterable[Candidate]) -> set[str]:
    """Return the hosts as which the world sees a peer."""
    return {c.address.host for c in candidates if c.kind == "observed"}


def may_dial(address: Address, here: Sequence[Interface], together: bool) -> bool:
    """Return whether to dial an address on a stranger's word.

    Args:
        address: where.
        here: our interfaces.
        together: whether one router shows both of us to the world.
    """
    ip = ip_of(address.host)
    if address.port < LOWEST_PORT or fault_of_ip(ip) is not None:
        return False
    if ip.is_loopback:
        return all(i.ip.is_loopback for i in here)
    networks = [i.network for i in here if ip in i.network]
    if any(_is_broadcast(ip, n) for n in networks):
        return False
    return not is_private(ip) or bool(networks) or together


def _is_broadcast(ip: Ip, network: Network) -> bool:
    return network.prefixlen < network.max_prefixlen - 1 and ip in (
        network.broadcast_address,
        network.network_address,
    )


def _best(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Return the best of each address, in order of preference, at most ``MOST``."""
    ranked = sorted(candidates, key=lambda c: KINDS.index(c.kind))
    first: dict[Address, Candidate] = {}
    for candidate in ranked:
        first.setdefault(candidate.address, candidate)
    return tuple(first.values())[:MOST]


def _few_hosts(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    hosts = [c.address.host for c in candidates]
    public = [host for host in hosts if not is_private(ip_of(host))]
    allowed = set(list(dict.fromkeys(public))[:MOST_HOSTS])
    refused = set(public) - allowed
    return tuple(c for c in candidates if c.address.host not in refused)
