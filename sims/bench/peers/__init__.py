"""Engines under test. Each runs in a process of its own and obeys ``wire``."""
