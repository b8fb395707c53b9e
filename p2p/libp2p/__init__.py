"""Everything of trio and libp2p: the wires of a mesh between machines.

``open_libp2p`` in ``transport`` is the door for trio programs, ``MeshThread`` in
``thread`` the one for all others. Nothing is imported here, so that a program that
does not mesh does not pay for it.
"""
