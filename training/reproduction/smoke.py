"""A row made small: sizes and lengths are cut, its choices kept. Its figures mean nothing."""

from typing import Any

from training.recipe import Recipe

HEIGHT, WIDTH = 64, 32
CLIPS = {None: 3, 4: 2}
"""Clips of a tracklet at most, by those of the row: all become more than four, and four more than one."""


def smoke_overrides(recipe: Recipe) -> dict[str, str]:
    """What makes a recipe run in seconds: small frames, half of P and of K, one epoch, no weights read.

    Network, losses, sampler, clip length and optimiser stay as they are, and so does what is transferred.
    """
    batch = recipe.batch
    return {
        "precision": "fp32",
        "validation_share": "0.0",
        "start.weights": "none",
        "network.frame_height": str(HEIGHT),
        "network.frame_width": str(WIDTH),
        "resolutions": "[]",
        "batch.people": str(max(2, batch.people // 2)),
        "batch.tracklets": str(max(2, batch.tracklets // 2)),
        "schedule.epochs": "1",
        "schedule.evaluate_every": "1",
    }


def smoke_evaluation(settings: dict[str, Any]) -> dict[str, Any]:
    """The evaluation on fewer clips: 3 for all, 2 for 4, 1 for 1."""
    clips = settings["max_clips"]
    return settings | {"max_clips": CLIPS.get(clips, clips)}
