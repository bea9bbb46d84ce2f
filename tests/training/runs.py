"""Small real training runs for several tests."""

import csv
from pathlib import Path

import torch
from rich.console import Console

from tests.training.networks import NARROW_IBN
from training.loop.run_log import LOG
from training.loop.trainer import train
from training.recipe import find_recipe

TINY = {
    "network.frame_height": "64",
    "network.frame_width": "32",
    "network.backbone": NARROW_IBN,
    "resolutions": "[]",
    "batch.people": "4",
    "schedule.evaluate_every": "1",
    "schedule.warm_up": "1",
    "validation_share": "0.3",
    "precision": "fp32",
    "losses.ranked_list": "0.5",
    "losses.center": "5e-4",
}
"""Changes with which an epoch of the bundled recipe takes a fraction of a second."""


def run(
    data: Path, out: Path, epochs: int, *, overrides: dict[str, str] | None = None, console=None, **options
) -> Path:
    """Train in this process."""
    changes = TINY | {"schedule.epochs": str(epochs)} | (overrides or {})
    console = console or Console(quiet=True)
    return train(find_recipe("light"), [data], out, overrides=changes, console=console, **options)


PROGRAM = """
import tests.training.networks
from not3d.cli import main
main()
"""
"""`not3d` with the narrow trunks."""


def arguments(data: Path, out: Path, epochs: int, *rest: str, overrides: dict[str, str] | None = None) -> list[str]:
    """Return the arguments of `PROGRAM` for the same run in its own process."""
    changes = TINY | {"schedule.epochs": str(epochs)} | (overrides or {})
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    return ["train", "light", "--data", str(data), "--out", str(out), *settings, *rest]


def rows(out: Path) -> list[dict[str, str]]:
    """Return the lines of the log of a run."""
    with (out / LOG).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same_state(one, two):
    """Compare networks, objectives, optimisers, random states and the rest of the state of a run."""

    def walk(a, b, where):
        assert type(a) is type(b), where
        if isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                if key not in ("seconds", "waited"):
                    walk(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, list | tuple):
            assert len(a) == len(b), where
            for number, (c, d) in enumerate(zip(a, b, strict=True)):
                walk(c, d, f"{where}.{number}")
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b), where
        else:
            assert a == b, where

    walk(one.state_dict, two.state_dict, "network")
    walk(one.progress, two.progress, "progress")


def assert_same_log(one, two):
    timeless = [
        [{k: v for k, v in row.items() if k not in ("seconds", "waiting")} for row in rows(out)] for out in (one, two)
    ]
    assert timeless[0] == timeless[1]
