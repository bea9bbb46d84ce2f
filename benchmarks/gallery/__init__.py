"""The gallery against its targets, the exact scan and its peers: ``python -m benchmarks.gallery``."""
