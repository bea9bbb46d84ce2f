"""What a run records for each epoch, in CSV and for TensorBoard, and the health of its attention."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.loop.objective import Objective

LOG, TENSORBOARD = "log.csv", "tensorboard"

COLUMNS = (
    *("epoch", "seconds", "waiting", "learning_rate", "total", "rank1", "map", "dead_attention", "attention_entropy"),
    *Objective.PARTS,
)
"""Columns of the log. `waiting` is the share of the training time that the network waited for batches. Figures that an
epoch does not have are empty."""

DEAD_SHARE = 0.5
"""Warn if at least this share of the clips has no attention."""
DEAD_ENTROPY = 0.999
"""Warn if the entropy of the attention weights, divided by log T, reaches this value: the weights are nearly equal."""


@dataclass
class EpochTotals:
    """Sums over the steps of the current epoch; a part of `last.pt`."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float], seconds: float, waited: float) -> None:
        """Add a step."""
        self.steps += 1
        self.seconds += seconds
        self.waited += waited
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the means over the steps, the seconds, and the share of them that was spent waiting."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        return means | {"seconds": self.seconds, "waiting": self.waited / max(self.seconds, 1e-9)}


class RunLog:
    """`log.csv` and `tensorboard/` in the folder of a run.

    Lines after epoch `done` are dropped, because a resumed run trains these epochs again.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._path = folder / LOG
        rows: list[dict[str, str]] = []
        if done and self._path.is_file():
            with self._path.open(encoding="utf-8", errors="replace", newline="") as file:
                # A run that was killed may have left a part of a line.
                lines = csv.DictReader(line.replace("\0", "") for line in file)
                rows = [row for row in lines if (row.get("epoch") or "").isdecimal() and int(row["epoch"]) <= done]
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=done + 1)

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Append the figures of an epoch, named as in `COLUMNS`."""
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
            writer.writerow({"epoch": epoch} | {name: f"{value:.6g}" for name, value in figures.items()})
        for name, value in figures.items():
            self._board.add_scalar(f"loss/{name}" if name in (*Objective.PARTS, "total") else name, value, epoch)
        self._board.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        self._board.close()


def attention_health(logits: Tensor) -> dict[str, Tensor]:
    """Measure whether the temporal attention still distinguishes frames.

    Its logits come from a ReLU, as in the published code of not3d and fantastic. Once all logits of a clip are zero,
    no gradient flows through them and the feature of the clip is a plain mean. The erasing-attention loss on logits
    pushes them there.

    Args:
        logits: ReLU logits `[N, T]`

    Returns:
        `dead_attention`, the share of clips whose logits are all zero, and `attention_entropy`, the mean entropy of
        the softmax divided by log T, which is 1 if all frames have the same weight. Empty for clips of one frame.
    """
    length = logits.shape[1]
    if length == 1:
        return {}
    logs = torch.log_softmax(logits.detach().float(), dim=1)
    entropy = -(logs.exp() * logs).sum(dim=1) / math.log(length)
    return {
        "dead_attention": (logits.detach() == 0).all(dim=1).float().mean(),
        "attention_entropy": entropy.mean(),
    }


def attention_warning(figures: Mapping[str, float]) -> str | None:
    """Return what to say about the mean figures of an epoch and what to do; `None` if the attention works."""
    dead, entropy = figures.get("dead_attention"), figures.get("attention_entropy")
    if dead is None or entropy is None or (dead < DEAD_SHARE and entropy < DEAD_ENTROPY):
        return None
    found = (
        f"{100 * dead:.0f} % of the clips have all-zero logits"
        if dead >= DEAD_SHARE
        else f"the weights' entropy is {entropy:.4f} of log T"
    )
    return (
        f"The attention is dead: {found}, so clips are plain means of their frames. Start again with "
        "network.attention_bias = 1.0 and, if the recipe uses erasing_attention, with "
        'losses.erasing_attention_form = "scores".'
    )
