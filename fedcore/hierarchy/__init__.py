"""Updates summed on their way up: trees of aggregators, on one machine or several.

    plan       which node sums whose updates; the shape of a tree
    role       who merges into whom, and when; a pure state machine
    aggregate  the sum of updates by a tree, in this process
    eager      answers summed as they come, for the coordinator
    arena      memory that processes share: slots for updates, places for sums
    folding    adding an update to a sum so that kill -9 loses nothing
    worker     one aggregator process
    hand       that process, seen from the pool
    seen       what the pool must know of an update
    pool       several aggregator processes, supervised
    edge       a peer that stands for peers of its own

Source:
    Qi et al., "LIFL: A Lightweight, Event-driven Serverless Platform for Federated
    Learning", MLSys 2024. https://arxiv.org/abs/2405.10968

Every sum is one of 64-bit integers (``fedcore.ring``), so eager, lazy and tree are
one result, bit for bit. ``arena``, ``folding`` and ``worker`` do without torch: a new
aggregator is at work in a fraction of a second.
"""
