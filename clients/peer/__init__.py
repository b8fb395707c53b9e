"""The program of a peer: a node of a mesh that people run at home and on servers."""
