"""Write a small synthetic dataset of people who walk past several cameras.

The demo and the tests use it, so that they need no footage of real people. It is not suitable for training a model for
real footage. Many people share the few colours of clothes, and each camera shifts them, so colour alone does not
identify a person; cut, pattern, hair, bags and build do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic.scene import (
    Camera,
    Obstacle,
    Random,
    develop,
    draw_camera,
    draw_obstacle,
    paint_obstacle,
    paint_shadow,
    view_background,
)
from training.datasets.synthetic.walker import Colour, Person, View, draw_walker
from training.datasets.tracklet import Tracklet

_CLOTH: tuple[Colour, ...] = (
    (0.1, 0.1, 0.12), (0.16, 0.2, 0.34), (0.85, 0.85, 0.83), (0.5, 0.5, 0.52), (0.62, 0.13, 0.14),
    (0.2, 0.4, 0.65), (0.22, 0.42, 0.25), (0.75, 0.6, 0.4), (0.82, 0.68, 0.2), (0.55, 0.3, 0.5),
)  # fmt: skip
_LEGS: tuple[Colour, ...] = (
    (0.12, 0.12, 0.14), (0.17, 0.22, 0.36), (0.3, 0.36, 0.48), (0.42, 0.38, 0.32), (0.65, 0.58, 0.46),
    (0.35, 0.36, 0.37),
)  # fmt: skip
_SKIN: tuple[Colour, ...] = ((0.9, 0.72, 0.6), (0.82, 0.62, 0.48), (0.66, 0.46, 0.33), (0.42, 0.28, 0.2))
_HAIR: tuple[Colour, ...] = ((0.08, 0.07, 0.07), (0.22, 0.14, 0.09), (0.5, 0.36, 0.18), (0.45, 0.44, 0.43))
_SHOES: tuple[Colour, ...] = ((0.1, 0.1, 0.1), (0.85, 0.85, 0.85), (0.4, 0.25, 0.15), (0.55, 0.15, 0.15))

T = TypeVar("T")


def write_synthetic(
    folder: Path, *, people: int, cameras: int, frames: int, seed: int, size: tuple[int, int] = (256, 128)
) -> list[Tracklet]:
    """Draw each person once at each camera into `folder/<person>/<camera>/<tracklet>/*.jpg`.

    The same arguments give the same bytes. More people or cameras do not change the others.

    Args:
        folder: is created if it does not exist.
        people: number of people, named `0001` and up.
        cameras: number of cameras, named `c1` and up.
        frames: number of frames of each tracklet.
        seed: of all random choices.
        size: height and width of a frame in pixels.

    Raises:
        OSError: an image cannot be written.
    """
    height, width = size
    wardrobe = [draw_person(np.random.default_rng([seed, 1, person])) for person in range(people)]
    views = [draw_camera(np.random.default_rng([seed, 2, camera]), camera, height, width) for camera in range(cameras)]
    tracklets = []
    for person, looks in enumerate(wardrobe):
        for camera, view in enumerate(views):
            names = (f"{person + 1:04d}", f"c{camera + 1}", "t1")
            target = folder.joinpath(*names)
            target.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng([seed, 3, person, camera])
            passer_by = draw_person(np.random.default_rng([seed, 4, person, camera]))
            paths = []
            for number, image in enumerate(_walk(looks, view, passer_by, random, frames=frames, size=size), start=1):
                paths.append(target / f"frame_{number:04d}.jpg")
                _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, view.quality])
                paths[-1].write_bytes(encoded.tobytes())
            tracklets.append(Tracklet(names[0], names[1], tuple(paths), "-".join(names)))
    return tracklets


def draw_person(random: Random) -> Person:
    """Draw a person: body, clothes, bag and gait."""
    top = _one(random, _CLOTH)
    return Person(
        height=random.uniform(0.9, 1.04),
        build=random.uniform(0.86, 1.24),
        skin=_one(random, _SKIN),
        hair=_one(random, ("short",) * 6 + ("long",) * 4 + ("tail",) * 2 + ("none",)),
        hair_colour=_one(random, _HAIR),
        cap=_one(random, _CLOTH) if random.random() < 0.22 else None,
        top=top,
        top_second=_one(random, [colour for colour in _CLOTH if colour != top]),
        pattern=_one(random, ("plain", "plain", "hoops", "stripes", "checks", "block", "print", "open")),
        long_sleeves=random.random() < 0.5,
        bottom=_one(random, ("trousers", "trousers", "trousers", "shorts", "skirt")),
        bottom_colour=_one(random, _LEGS),
        shoes=_one(random, _SHOES),
        bag=_one(random, ("none", "none", "backpack", "shoulder", "hand")),
        bag_colour=_one(random, _CLOTH),
        stride=random.uniform(0.36, 0.5),
        arm_swing=random.uniform(0.2, 0.55),
        cadence=random.uniform(0.34, 0.46),
    )


def _one(random: Random, choices: Sequence[T]) -> T:
    return choices[int(random.integers(len(choices)))]


def _walk(
    person: Person, camera: Camera, passer_by: Person, random: Random, *, frames: int, size: tuple[int, int]
) -> list[NDArray[np.uint8]]:
    """Draw the frames of one tracklet, RGB `uint8 [h, w, 3]`, cropped as a detector would do."""
    height, width = size
    yaw = camera.yaw + random.uniform(-0.3, 0.3)
    turn = random.uniform(-0.25, 0.25) / max(frames, 1)
    phase, start = random.uniform(0, 2 * np.pi), random.uniform(0, camera.background.shape[1])
    # The background moves little if the person walks towards or away from the camera, and much if across.
    pace = 0.075 * height * person.cadence * np.copysign(max(abs(np.sin(yaw)), 0.3), np.sin(yaw))
    zoom, lean = random.uniform(0.84, 0.94), random.uniform(-0.05, 0.05)
    crossing = random.uniform(-0.2, 1.2) * frames
    obstacle, crossed = _occlusion(camera, random, (start, start + pace * frames))
    images = []
    for frame in range(frames):
        offset = start + pace * frame
        zoom = float(np.clip(zoom + random.normal(0, 0.006), 0.8, 0.97))
        lean = float(np.clip(lean + random.normal(0, 0.008), -0.09, 0.09))
        scale = zoom * height / (1.0 + 0.1 * np.sin(camera.pitch))
        foot = (width * (0.5 + lean), height * (0.5 + zoom / 2))
        canvas = view_background(camera, offset, width)
        paint_shadow(canvas, foot, scale, camera.side_light)
        view = View(yaw + turn * frame, camera.pitch, scale, foot, camera.roll, camera.side_light)
        draw_walker(canvas, person, view, phase + person.cadence * frame)
        if crossed:
            away = (frame - crossing) * 0.12 * width
            other = View(
                -1.4 if camera.yaw > 0 else 1.4, camera.pitch, scale * 1.12, (foot[0] + away, height * 1.02), 0, 0
            )
            draw_walker(canvas, passer_by, other, passer_by.cadence * frame)
        if obstacle is not None:
            paint_obstacle(canvas, obstacle, offset)
        images.append(develop(camera, canvas, random))
    return images


def _occlusion(camera: Camera, random: Random, way: tuple[float, float]) -> tuple[Obstacle | None, bool]:
    """Choose an obstacle, or whether another person crosses, or neither."""
    obstacle = draw_obstacle(random, way)
    chance = random.random()
    return (obstacle if chance < 0.6 * camera.occlusion else None), 0.6 * camera.occlusion <= chance < camera.occlusion
