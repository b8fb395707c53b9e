"""A model that is a sum of what peers add: mergeable, exact, in any order.

No network, no clock, no disk. See ``model`` for the mathematics, ``folding`` for how
it grows, ``judging`` for what is refused, ``messages`` for the bytes.
"""

from fedcore.orderfree.facts import Fact, Origin, Withdrawal
from fedcore.orderfree.folding import ahead_of, apply, fact_of, merge, rebase, withdraw
from fedcore.orderfree.join import Joined, join
from fedcore.orderfree.judging import fault
from fedcore.orderfree.messages import (
    Total,
    decode_fact,
    decode_total,
    encode_fact,
    encode_total,
    hash_of,
    read_snapshot,
    snapshot,
)
from fedcore.orderfree.model import Model, Register, begin, head_of
from fedcore.orderfree.waiting import Learned, Waiting, learn, settle

__all__ = [
    "Fact",
    "Joined",
    "Learned",
    "Model",
    "Origin",
    "Register",
    "Total",
    "Waiting",
    "Withdrawal",
    "ahead_of",
    "apply",
    "begin",
    "decode_fact",
    "decode_total",
    "encode_fact",
    "encode_total",
    "fact_of",
    "fault",
    "hash_of",
    "head_of",
    "join",
    "learn",
    "merge",
    "read_snapshot",
    "rebase",
    "settle",
    "snapshot",
    "withdraw",
]
