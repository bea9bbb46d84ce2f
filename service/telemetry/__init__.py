"""Metrics, logs and the cost of each request."""
