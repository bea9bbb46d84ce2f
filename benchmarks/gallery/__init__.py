"""Gallery benchmark: `python -m benchmarks.gallery`."""
