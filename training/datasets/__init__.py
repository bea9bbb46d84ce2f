"""Readers of datasets and a synthetic dataset; without torch, since the command line enrols with them."""
