"""Short training runs, each in a folder of its own, that continue after an interruption and are done only once."""

import gc
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.recognition.common import console, digest
from training.loop.run import BEST, LAST
from training.loop.trainer import train
from training.recipe import find_recipe, load_recipe

_SETTINGS, _TIME, _EPOCHS = "settings.json", "time.json", 10


@dataclass(frozen=True)
class Training:
    """A run of `not3d train`."""

    recipe: str
    data: tuple[Path, ...]
    changes: Mapping[str, str]
    teacher: Path | None = None
    start: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Trained:
    """A finished run and the seconds that its calls took, reading and measuring included."""

    checkpoint: Path
    wall: float
    processor: float


def length(recipe: str, samples: int, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the changes with which a run of a recipe sees this number of crops, rounded down to steps.

    All runs have the same number of steps, whatever the number of people. Times that the recipe gives in steps become
    a share of the run, because 100 steps of 300 are another thing than of 10,000: the head alone is trained in the
    first tenth, and the average of the weights is over a tenth. The last epoch alone is measured, so none is chosen.
    """
    base = load_recipe(find_recipe(recipe), dict(changes))
    steps = max(1, samples // (base.batch.people * base.batch.tracklets))
    epochs = min(_EPOCHS, steps)
    each = steps // epochs
    tenth = max(1, each * epochs // 10)
    return {
        "schedule.epochs": str(epochs),
        "schedule.steps": str(each),
        "schedule.evaluate_every": str(epochs),
        "optimiser.head_steps": str(tenth if base.optimiser.head_steps else 0),
        "optimiser.average": str(1 - 1 / max(2, tenth) if base.optimiser.average else 0),
        "resolutions": "[]",
    }


def samples_of(recipe: str, changes: Mapping[str, str]) -> int:
    """Return the number of crops, or clips, that a run of fixed length sees."""
    content = load_recipe(find_recipe(recipe), dict(changes))
    batch, schedule = content.batch, content.schedule
    return batch.people * batch.tracklets * schedule.epochs * (schedule.steps or 0)


def train_once(training: Training, out: Path) -> Trained:
    """Train into `out`, continue the run that is there, or return it if it is finished."""
    path = find_recipe(training.recipe)
    recipe = load_recipe(path, dict(training.changes))
    settings = json.loads(
        json.dumps(
            {
                "recipe": recipe.model_dump(exclude={"name", "description", "card"}),
                "data": [file.name for file in training.data],
                "teacher": training.teacher and digest(training.teacher),
                "start": training.start and digest(training.start),
            }
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    stored, clock = out / _SETTINGS, out / _TIME
    if stored.is_file() and json.loads(stored.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{out} holds a run with other settings: give another --out, or remove the folder")
    stored.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    spent = json.loads(clock.read_text(encoding="utf-8")) if clock.is_file() else {"wall": 0.0, "processor": 0.0}
    if spent.get("finished"):
        return Trained(out / BEST, spent["wall"], spent["processor"])
    console.print(f"training {out}", highlight=False)
    started = time.perf_counter(), time.process_time()
    finished = False
    try:
        train(
            path,
            training.data,
            out,
            resume=(out / LAST).is_file(),
            overrides=dict(training.changes),
            device=training.device,
            console=console,
            teacher=training.teacher,
            start=training.start,
        )
        finished = True
    finally:
        spent["wall"] += time.perf_counter() - started[0]
        spent["processor"] += time.process_time() - started[1]
        clock.write_text(json.dumps(spent | {"finished": finished}) + "\n", encoding="utf-8")
        gc.collect()  # the frames of a run are up to 2 GiB
    return Trained(out / BEST, spent["wall"], spent["processor"])
