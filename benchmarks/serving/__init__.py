"""The service against its engine, its peers and its targets: ``python -m benchmarks.serving``.

Clients run in a process of their own, which imports this package: nothing heavy belongs into this file.
"""
