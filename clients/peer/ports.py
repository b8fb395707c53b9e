"""What to listen on when the owner has not said: both families, ports that are free."""

import socket
from collections.abc import Sequence

ALL4, ALL6 = "0.0.0.0", "::"  # noqa: S104 - all, unless told otherwise


def any_hosts() -> Sequence[str]:
    """Return the wildcards of the families that this machine has."""
    return [host for host in (ALL4, ALL6) if _probed(host, 0)] or [ALL4]


def free_port(hosts: Sequence[str]) -> int:
    """Return a TCP port that is free on all of ``hosts``; 0 if none is found.

    One number for all of them makes addresses that people can read.
    """
    for _ in range(8):
        port = _probed(hosts[0], 0)
        if port and all(_probed(host, port) for host in hosts[1:]):
            return port
    return 0


def is_free(port: int) -> bool:
    """Return whether nobody listens on TCP ``port`` of this machine."""
    return all(_probed(host, port) for host in any_hosts())


def port_in(addresses: Sequence[str]) -> int:
    """Return the TCP port of the first of our own addresses."""
    for address in addresses:
        parts = address.split("/")
        if "tcp" in parts:
            return int(parts[parts.index("tcp") + 1])
    return 0


def _probed(host: str, port: int) -> int:
    """Return the port on which one can listen now; 0 if one cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            found: int = server.getsockname()[1]
            return found
    except OSError:
        return 0
