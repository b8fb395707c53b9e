"""Peers without a server: identities, transports, shared state, content, rounds.

Protocols are machines without sockets or clocks (``p2p.machine``). ``p2p.libp2p``,
``p2p.channel`` and ``p2p.nat`` are the wires between real machines, ``p2p.memory`` is
those of tests.
"""
