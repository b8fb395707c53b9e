"""Peers without a server: transports, the ledger of updates, replicated rounds.

What is here runs on an in-memory network (tests, simulations); it has no sockets.
"""
