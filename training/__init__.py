"""Datasets, losses, the trainer, evaluation and export."""
