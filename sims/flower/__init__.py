"""Flower apps in one process, or on Ray: the grid, and ``flower-simulation``."""
