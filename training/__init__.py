"""Datasets, losses, the trainer, evaluation and export."""

import model  # noqa: F401 - before OpenVINO: see there
