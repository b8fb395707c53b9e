"""What routers do to connections, as nftables rules."""

from typing import Literal, get_args

Kind = Literal[
    "open",
    "full-cone",
    "restricted",
    "port-restricted",
    "shifting",
    "symmetric",
    "double",
    "no-udp",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHIFTED = range(4001, 4033)  # inner ports that a shifting router moves by 50 000

_TABLE = """
table ip home {{
    set holes {{
        type {key}
        flags dynamic,timeout
        timeout 10m
    }}
    chain before {{
        type nat hook prerouting priority -100
        {inbound}
    }}
    chain through {{
        type filter hook forward priority 0
        {lost}
        {outbound}
        ct state established,related accept
        ct status dnat accept
        iifname "wan" drop
    }}
    chain self {{
        type filter hook input priority 0
        ct state established,related accept
        iifname "wan" drop
    }}
    chain after {{
        type nat hook postrouting priority 100
        {moved}
        oifname "wan" masquerade{random}
    }}
}}
"""


CUTS = """
table bridge lab {
    set cuts {
        type ifname . ifname
    }
    chain through {
        type filter hook forward priority 0
        iifname . oifname @cuts drop
    }
}
"""
FIREWALL6 = """
table ip6 home {
    chain through {
        type filter hook forward priority 0
        ct state established,related accept
        iifname "wan" drop
    }
}
"""

CLOUD = """
table ip cloud {{
    chain before {{
        type nat hook prerouting priority -99
        iifname "wan" dnat to {host}
    }}
}}
"""


def rules(kind: Kind, wan: str, host: str) -> str:
    """Return the rules of a router with the outer address ``wan``.

    A full-cone router lets anybody use a mapping, a restricted one every machine that
    was sent something, any other one only the very port that was.
    """
    both = "meta l4proto { tcp, udp }"
    key, inbound, outbound = "inet_service", "", ""
    if kind == "full-cone":
        inbound = f'iifname "wan" {both} th dport @holes dnat to {host}'
        outbound = f'oifname "wan" {both} update @holes {{ th sport }}'
    if kind == "restricted":
        key = "ipv4_addr . inet_service"
        inbound = f'iifname "wan" {both} ip saddr . th dport @holes dnat to {host}'
        outbound = f'oifname "wan" {both} update @holes {{ ip daddr . th sport }}'
    ports = SHIFTED if kind == "shifting" else ()
    moved = "\n        ".join(
        f'oifname "wan" tcp sport {p} snat to {wan}:{p + 50_000}' for p in ports
    )
    return _TABLE.format(
        key=key,
        inbound=inbound,
        outbound=outbound,
        moved=moved,
        random=" fully-random" if kind == "symmetric" else "",
        lost="meta l4proto udp drop" if kind == "no-udp" else "",
    )
