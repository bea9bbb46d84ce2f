"""Tiny real training runs, which several tests make."""

import csv
from pathlib import Path

from rich.console import Console

from training.loop.run_log import LOG
from training.loop.trainer import train
from training.recipe import find_recipe

TINY = {
    "network.frame_height": "64",
    "network.frame_width": "32",
    "network.backbone": "resnet18_ibn_a_x0_75",
    "resolutions": "[]",
    "batch.people": "4",
    "schedule.evaluate_every": "1",
    "schedule.warm_up": "1",
    "validation_share": "0.3",
    "precision": "fp32",
    "losses.ranked_list": "0.5",
    "losses.center": "5e-4",
}
"""Changes that make the bundled recipe take a second per epoch."""


def run(
    data: Path, out: Path, epochs: int, *, overrides: dict[str, str] | None = None, console=None, **options
) -> Path:
    """Trains in this process."""
    changes = TINY | {"schedule.epochs": str(epochs)} | (overrides or {})
    console = console or Console(quiet=True)
    return train(find_recipe("bundled"), [data], out, overrides=changes, console=console, **options)


def arguments(data: Path, out: Path, epochs: int, *rest: str, overrides: dict[str, str] | None = None) -> list[str]:
    """The same for a process of its own: what follows ``python -m not3d``."""
    changes = TINY | {"schedule.epochs": str(epochs)} | (overrides or {})
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    return ["train", "bundled", "--data", str(data), "--out", str(out), *settings, *rest]


def rows(out: Path) -> list[dict[str, str]]:
    """The lines of a run's log."""
    with (out / LOG).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
