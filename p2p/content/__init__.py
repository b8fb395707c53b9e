"""Blobs by content id: their parts, where they lie, who has them, how they travel.

``cid`` and ``manifest`` say what a blob is; ``shelf`` keeps blobs on a ``space``, a
folder or a memory; ``swarm`` moves them between peers; ``lookup`` finds who has one.
"""
