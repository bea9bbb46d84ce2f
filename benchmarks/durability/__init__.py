"""Acknowledged changes survive `kill -9`: `python -m benchmarks.durability`."""
