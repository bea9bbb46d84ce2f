"""A small synthetic site: several cameras record the same people, who walk from camera to camera.

Each camera gives full frames of a scene with a fixed background, and the true box of each person in each frame, so the
demo can show the way from recordings and tracks to search without a detector.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic.dataset import draw_person
from training.datasets.synthetic.scene import Camera, Random, develop, draw_camera, paint_shadow, view_background
from training.datasets.synthetic.walker import Image, Person, View, draw_walker

FRAMES_PER_SECOND = 5
_WALK_SECONDS = (4.0, 6.0)
_TRAVEL_SECONDS = (5.0, 14.0)
_GAIT = 2.0
"""Phases of `Person.cadence` per frame: the gait of the dataset is drawn at a higher frame rate."""
_SHIFT = 32
_HORIZON = 0.3
_CAMERA_HEIGHT = 1.25
"""Height of the cameras in heights of a person: where feet are, for a size."""

Box = tuple[float, float, float, float]
"""x, y, width and height in pixels."""


@dataclass(frozen=True)
class Walk:
    """One person passes one camera. Times are in seconds from the beginning of the recordings."""

    person: int
    camera: int
    start: float
    seconds: float
    middle: float
    """where in the frame, as a share of its width"""
    turn: float
    """added to the camera's angle, in radians"""


@dataclass(frozen=True)
class Site:
    """What happens at a site.

    Attributes:
        people: how they look.
        walks: who passes which camera when, by time.
        seconds: the length of the recordings.
        cameras: number of cameras.
        size: height and width of a frame.
        seed: of all random choices.
    """

    people: tuple[Person, ...]
    walks: tuple[Walk, ...]
    seconds: float
    cameras: int
    size: tuple[int, int]
    seed: int


@dataclass(frozen=True, eq=False)
class SiteFrame:
    """One frame of a camera, RGB `uint8 [h, w, 3]`, and the boxes in it by the index of the walk."""

    pixels: NDArray[np.uint8]
    boxes: dict[int, Box]


def plan_site(*, people: int, cameras: int, passes: int, seed: int, size: tuple[int, int] = (360, 640)) -> Site:
    """Draw people, and let each of them pass `passes` different cameras, one after the other.

    Args:
        people: number of people.
        cameras: number of cameras.
        passes: cameras that each person passes; at most `cameras`.
        seed: of all random choices.
        size: height and width of a frame.
    """
    walks = []
    for person in range(people):
        random = np.random.default_rng([seed, 5, person])
        at = 2.0 * person + random.uniform(0, 2)
        for camera in random.permutation(cameras)[:passes]:
            seconds = random.uniform(*_WALK_SECONDS)
            walks.append(
                Walk(person, int(camera), at, seconds, random.uniform(0.35, 0.65), random.uniform(-0.25, 0.25))
            )
            at += seconds + random.uniform(*_TRAVEL_SECONDS)
    walks.sort(key=lambda walk: walk.start)
    looks = tuple(draw_person(np.random.default_rng([seed, 1, person])) for person in range(people))
    return Site(looks, tuple(walks), max(walk.start + walk.seconds for walk in walks) + 1, cameras, size, seed)


def record(site: Site, camera: int) -> Iterator[SiteFrame]:
    """Yield the frames of one camera, `FRAMES_PER_SECOND` a second."""
    height, width = site.size
    view = draw_camera(np.random.default_rng([site.seed, 2, camera]), camera, height, width)
    random = np.random.default_rng([site.seed, 6, camera])
    still = replace(view, noise=0.0)
    empty = view_background(view, 0, width)
    background = _develop(still, empty, random)
    # The noise of a frame is a part of one large picture of noise, because drawing new noise takes most of the time.
    noise = (255 * random.normal(0, view.noise, (height + _SHIFT, width + _SHIFT, 3))).astype(np.int16)
    phases = random.uniform(0, 2 * np.pi, len(site.walks))
    for number in range(int(site.seconds * FRAMES_PER_SECOND)):
        time = number / FRAMES_PER_SECOND
        present = [
            (_place(walk, view, site.size, time), index, walk)
            for index, walk in enumerate(site.walks)
            if walk.camera == camera and walk.start <= time <= walk.start + walk.seconds
        ]
        image, boxes = background, {}
        if present:
            canvas, image = empty.copy(), background.copy()
            areas = []
            for seen, index, walk in sorted(present, key=lambda each: each[0].scale):  # distant ones first
                person = site.people[walk.person]
                area = _area(seen, site.size)
                box = _draw(canvas, area, person, seen, phases[index] + _GAIT * person.cadence * number)
                areas.append(area)
                if box is not None:
                    boxes[index] = box
            for area in areas:
                image[area] = _develop(still, canvas[area], random)
        down, across = random.integers(_SHIFT, size=2)
        seen_noise = noise[down : down + height, across : across + width]
        yield SiteFrame(np.asarray(cv2.add(image, seen_noise, dtype=cv2.CV_8U)), boxes)


def _develop(camera: Camera, scene: Image, random: Random) -> NDArray[np.uint8]:
    """Return the scene as the camera records it at its full resolution."""
    return develop(replace(camera, pixels=scene.shape[0]), scene, random)


def _place(walk: Walk, camera: Camera, size: tuple[int, int], time: float) -> View:
    """Return where a walking person is: across the frame as far as seen from the side, and nearer or farther."""
    height, width = size
    yaw = camera.yaw + walk.turn
    part = (time - walk.start) / walk.seconds - 0.5  # -0.5 to 0.5
    scale = height * (0.52 + 0.12 * part * np.cos(yaw))
    x = width * (walk.middle + 0.8 * part * np.sin(yaw))
    return View(yaw, camera.pitch, scale, (x, height * _HORIZON + _CAMERA_HEIGHT * scale), 0.0, camera.side_light)


def _area(view: View, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns in which a person and the shadow are, at least one of each."""
    height, width = size
    x, y = (int(value) for value in view.foot)
    reach = int(0.6 * view.scale)
    left, right = min(max(0, x - reach), width - 1), max(1, min(width, x + reach))
    top, bottom = min(max(0, y - int(1.3 * view.scale)), height - 1), max(1, min(height, y + int(0.1 * view.scale)))
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))


def _draw(canvas: Image, area: tuple[slice, slice], person: Person, view: View, phase: float) -> Box | None:
    """Draw a person with shadow, and return the box of what was painted, if all of it is inside the frame."""
    left, top = area[1].start, area[0].start
    part = np.ascontiguousarray(canvas[area])
    here = replace(view, foot=(view.foot[0] - left, view.foot[1] - top))
    paint_shadow(part, here.foot, here.scale, here.light)
    before = part.copy()
    draw_walker(part, person, here, phase)
    canvas[area] = part
    rows, columns = (np.flatnonzero((part != before).any(axis=(axis, 2))) for axis in (1, 0))
    width = canvas.shape[1]
    if not len(rows) or (left == 0 and columns[0] == 0) or (left + columns[-1] == width - 1):
        return None
    return (
        left + float(columns[0]),
        top + float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )
