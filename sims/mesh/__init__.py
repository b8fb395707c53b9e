"""Whole meshes in one process: one seed is one run that can be replayed.

The machines (``p2p.machine``) are those of the program. What is simulated is the world
around them: clocks, wires, disks, power cuts, and people who lie.
"""
