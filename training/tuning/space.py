"""Paper B's search space, as in its published code, and where its parameters are in a recipe."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.recipe import RECIPES


@dataclass(frozen=True)
class Parameter:
    """A range, by paper B's name."""

    name: str
    low: float
    high: float
    place: str
    """in a recipe"""
    scaling: Literal["linear", "log"] = "linear"


SPACE = (
    Parameter("sigma", 0.1, 1.0, "losses.osm_caa_sigma"),
    Parameter("alpha", 0.5, 3.0, "losses.osm_caa_alpha"),
    Parameter("l", 0.1, 1.0, "losses.osm_caa_balance"),
    Parameter("margin", 1e-6, 1.0, "losses.triplet_margin", "log"),
    Parameter("beta", 1e-6, 1.0, "losses.osm_caa"),
    Parameter("gamma", 1e-6, 1.0, "schedule.decay"),
    Parameter("weight_decay", 1e-6, 1.0, "optimiser.weight_decay"),
)
"""The published code's, its linear weight decay included."""

FIXED = {
    "augmentation.erase": "0.0",
    "losses.erasing_attention": "0.0",
    "losses.center": "5e-4",
    "losses.osm_caa_vectors": '"centers"',
    "schedule.epochs": "121",
}
"""What the search changes in any recipe: CL centers, no random erasing, no attention loss, 121 epochs."""


def overrides_of(parameters: Mapping[str, float]) -> dict[str, str]:
    """Paper B's parameters as a recipe's values; beta weighs OSM, and 1 - beta the triplet loss."""
    values = {parameter.place: repr(parameters[parameter.name]) for parameter in SPACE}
    return values | {"losses.triplet": repr(max(1.0 - parameters["beta"], 0.0))}


def write_recipe(parameters: Mapping[str, float], base: Path, out: Path, name: str, description: str) -> None:
    """Writes a recipe that differs from ``base`` by the parameters; the base's epochs and augmentation stay."""
    shipped = base.resolve().is_relative_to(RECIPES)
    extends = base.resolve().relative_to(RECIPES).with_suffix("").as_posix() if shipped else str(base.resolve())
    tables: dict[str, list[str]] = {}
    for place, value in overrides_of(parameters).items():
        table, key = place.split(".")
        tables.setdefault(table, []).append(f"{key} = {value}")
    lines = [f'extends = "{extends}"', f'name = "{name}"', f'description = "{description}"']
    for table, rows in tables.items():
        lines += ["", f"[{table}]", *rows]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    out.write_text(text, encoding="utf-8")
