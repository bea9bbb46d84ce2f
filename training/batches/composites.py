"""Invented crops: the upper part of one person on the lower part of another, in other colours.

A model learns from a teacher only what the teacher says of the crops that it is asked about, and a few thousand people
wear few of all the clothes there are. Composites ask it about many more combinations of clothes and colours. They show
no person of the training set, so they have no label, and only the losses of a teacher use them. Mixing training images
for distillation: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet

Frame = NDArray[np.uint8]

HEIGHT, WIDTH = 128, 64
"""of a composite, in pixels: that of the crops of most datasets"""

_JPEG_QUALITY = 92


def make_composites(tracklets: Sequence[Tracklet], count: int, seed: int) -> list[Tracklet]:
    """Write composites of training crops as files, and return each as a tracklet without person and camera.

    The same arguments give the same files, in a folder of the system's folder for temporary files. Files that another
    run wrote are used again.

    Args:
        tracklets: of the training people
        count: number of composites
        seed: decides crops, colours and borders

    Raises:
        FrameError, OSError: a crop cannot be read, or a file cannot be written.
    """
    names = "\n".join(f"{each.person} {each.camera} {each.name} {len(each.frames)}" for each in tracklets)
    digest = hashlib.sha256(f"{seed}\n{names}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"not3d-composites-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if not path.exists():
            rng = np.random.default_rng([seed, number])
            one, other = (_draw_crop(tracklets, rng) for _ in range(2))
            scratch = path.with_suffix(f".{rng.integers(2**32)}.part.jpg")
            cv2.imwrite(str(scratch), compose(one, other, rng)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            scratch.replace(path)
        made.append(Tracklet("", "", (path,), f"composite-{number}"))
    return made


def compose(upper: Frame, lower: Frame, rng: np.random.Generator) -> Frame:
    """Return the upper part of one crop on the lower part of another: RGB `uint8 [H, W, 3]`, as both are.

    Each part is mirrored and recoloured by chance. The border is near the waist and a few pixels soft. One composite in
    four is a whole crop in other colours.
    """
    parts = [each[:, ::-1] if rng.random() < 0.5 else each for each in (upper, lower)]
    whole = rng.random() < 0.25
    first, second = (recolour(np.ascontiguousarray(each), rng) for each in (parts[0], parts[0] if whole else parts[1]))
    height = len(upper)
    border, softness = rng.uniform(0.4, 0.62) * height, rng.uniform(1, 6)
    rows = np.arange(height, dtype=np.float32)
    share = 1 / (1 + np.exp(np.clip((rows - border) / softness * 2, -30, 30)))[:, None, None]
    mixed: Frame = (share * first + (1 - share) * second).round().astype(np.uint8)
    return mixed


def recolour(crop: Frame, rng: np.random.Generator) -> Frame:
    """Turn the hue, and change saturation and brightness: RGB `uint8 [H, W, 3]`. Half of all crops keep their hue."""
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 256)) % 256
    hsv[..., 1] *= 2 ** rng.uniform(-1, 1)
    hsv[..., 2] = 255 * (hsv[..., 2] / 255) ** (2 ** rng.uniform(-0.6, 0.6))
    changed: Frame = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB_FULL).astype(np.uint8)
    return changed


def _draw_crop(tracklets: Sequence[Tracklet], rng: np.random.Generator) -> Frame:
    frames = tracklets[int(rng.integers(len(tracklets)))].frames
    return read_picture(frames[int(rng.integers(len(frames)))], HEIGHT, WIDTH)
