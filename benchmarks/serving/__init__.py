"""Serving benchmark: `python -m benchmarks.serving`. Clients import this package, so this file imports nothing."""
