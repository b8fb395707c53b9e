"""Clipping and noise; secret sharing and secure sums come here."""
