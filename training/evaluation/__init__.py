"""Measure how well a model ranks: features of tracklets, protocols, metrics and the report."""
