"""Recipes for tests, and recipes in bundles."""

import json
from pathlib import Path

from model.bundle import SPEC_FILE

TINY_RECIPE = """
name = "tiny"
validation_share = 0.3
precision = "fp32"
[network]
backbone = "resnet18_ibn_a_x0_75"
attention = "pooled"
attention_bias = 1.0
frame_height = 64
frame_width = 32
[batch]
people = 4
tracklets = 2
[schedule]
epochs = 1
"""


def set_recipe(bundle: Path, **values: object) -> None:
    """Replace the recipe of the bundle in this folder."""
    path = bundle / SPEC_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": values}))


TINY_TRIAL = {
    "network.backbone": "resnet18_x0_75",
    "network.attention": "mean",
    "network.frame_height": "32",
    "network.frame_width": "32",
    "start.weights": "none",
    "batch.people": "4",
    "batch.tracklets": "2",
    "validation_share": "0.3",
    "schedule.epochs": "1",
    "precision": "fp32",
}
"""Changes of a recipe for trials that take a second."""
