"""Benchmarks: the source of each measured figure in the documents."""
