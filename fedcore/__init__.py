"""The words every other package speaks: parameters, work, updates, strategies."""
