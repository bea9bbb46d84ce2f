"""A teacher that can be trained: a bundle of a small frame-level network, as `not3d import` writes it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.importing.frame_model import ImportOptions
from training.importing.to_bundle import import_frame_model

SIZE = (64, 32)
"""Height and width of its frames."""
DIMENSION = 16


class TinyTeacher(nn.Module):
    """Convolutions, one of them per channel, and a linear layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.linear = nn.Linear(8 * 4 * 2, DIMENSION)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed frames `[N, 3, 64, 32]`."""
        maps = torch.relu(self.second(torch.relu(self.first(frames))))
        pooled: Tensor = self.linear(nn.functional.avg_pool2d(maps, 4).flatten(1))
        return pooled


def write_teacher(folder: Path, *, clip_length: int = 1, seed: int = 3) -> Path:
    """Write the bundle and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "teacher.onnx"
    torch.onnx.export(
        TinyTeacher(seed).eval(),
        (torch.zeros(2, 3, *SIZE),),
        path,
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    out = folder / "bundle"
    import_frame_model(path, out, ImportOptions(clip_length=clip_length))
    return out
