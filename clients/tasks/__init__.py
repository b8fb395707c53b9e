"""Named learning problems on real data, and how to bring your own."""
