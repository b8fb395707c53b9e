"""A small internet of network namespaces, for tests and benchmarks of ways through."""
