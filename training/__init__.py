"""Datasets, losses, the trainer, evaluation and export."""

import model  # noqa: F401 - turns off usage reports before an engine is imported
