"""What a run writes down for each epoch: a line of CSV, and the same figures for TensorBoard."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.loop.objective import Objective

LOG, TENSORBOARD = "log.csv", "tensorboard"

COLUMNS = (
    *("epoch", "seconds", "waiting", "learning_rate", "total", "rank1", "map", "dead_attention", "attention_entropy"),
    *Objective.PARTS,
)
"""Columns of the log. ``waiting`` is the share of the epoch's training time that the network waited for batches;
figures that an epoch does not have are empty."""


@dataclass
class Tally:
    """Sums over the steps of the epoch under way, kept with the checkpoint of an interrupted one."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float], seconds: float, waited: float) -> None:
        """Counts a step."""
        self.steps += 1
        self.seconds += seconds
        self.waited += waited
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Means over the steps, the time taken and the share of it that was spent waiting."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        return means | {"seconds": self.seconds, "waiting": self.waited / max(self.seconds, 1e-9)}


class RunLog:
    """``log.csv`` and ``tensorboard/`` of a run's folder, from its epoch ``done`` on.

    Lines of later epochs, which a resumed run trains again, are dropped.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._path = folder / LOG
        rows: list[dict[str, str]] = []
        if done and self._path.is_file():
            with self._path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= done]
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=done + 1)

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Appends an epoch's figures, named as :data:`COLUMNS`."""
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
            writer.writerow({"epoch": epoch} | {name: f"{value:.6g}" for name, value in figures.items()})
        for name, value in figures.items():
            self._board.add_scalar(f"loss/{name}" if name in (*Objective.PARTS, "total") else name, value, epoch)
        self._board.flush()

    def close(self) -> None:
        """Closes TensorBoard's file."""
        self._board.close()
