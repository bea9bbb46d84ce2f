"""The cameras of the synthetic dataset: viewing angle, background, obstacles, and the quality of their images."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic.walker import Image

Random = np.random.Generator

_GROUNDS = ((0.55, 0.55, 0.53), (0.47, 0.45, 0.43), (0.36, 0.37, 0.39), (0.62, 0.58, 0.5), (0.34, 0.42, 0.26))
_WALLS = ((0.62, 0.45, 0.38), (0.72, 0.7, 0.66), (0.5, 0.53, 0.57), (0.4, 0.46, 0.36), (0.66, 0.6, 0.48))
_OBJECTS = ((0.15, 0.22, 0.2), (0.55, 0.16, 0.14), (0.75, 0.72, 0.2), (0.2, 0.28, 0.45), (0.3, 0.3, 0.3))


@dataclass(frozen=True)
class Camera:
    """One camera: its position, its light and the quality of its images.

    `gain` (per RGB channel), `gamma`, `contrast` and `saturation` determine its colours. `pixels` is the height in
    pixels at which it sees a person, before the crop is enlarged. `noise` is a standard deviation for values of 0 to 1,
    `blur` the length of the motion blur in pixels of the crop, `quality` the JPEG quality.
    """

    yaw: float
    pitch: float
    roll: float
    side_light: float
    gain: tuple[float, float, float]
    gamma: float
    contrast: float
    saturation: float
    pixels: int
    noise: float
    blur: int
    quality: int
    background: Image
    occlusion: float
    """probability that something is between camera and person in a tracklet"""


def draw_camera(random: Random, index: int, height: int, width: int) -> Camera:
    """Draw a camera; successive indices see people from the front, the side, the back and angles between."""
    yaws = (0.35, 1.75, 2.85, -0.95, -2.1, 0.9)
    warmth, green = random.uniform(-0.22, 0.22), random.uniform(-0.07, 0.07)
    exposure = random.uniform(0.78, 1.18)
    return Camera(
        yaw=yaws[index % len(yaws)] + random.uniform(-0.2, 0.2),
        pitch=random.uniform(0.03, 0.34),
        roll=random.uniform(-0.035, 0.035),
        side_light=random.uniform(-0.16, 0.16),
        gain=(exposure * (1 + warmth), exposure * (1 + green), exposure * (1 - warmth)),
        gamma=random.uniform(0.8, 1.3),
        contrast=random.uniform(0.78, 1.15),
        saturation=random.uniform(0.6, 1.1),
        pixels=int(random.uniform(0.45, 0.95) * height),
        noise=random.uniform(0.006, 0.02),
        blur=int(random.integers(0, 4)),
        quality=int(random.integers(55, 90)),
        background=_background(random, index, height, 8 * width),
        occlusion=0.3,
    )


def develop(camera: Camera, scene: Image, random: Random) -> NDArray[np.uint8]:
    """Return the scene as the camera records it, RGB `[h, w, 3]`: with its colours, sharpness and noise."""
    height, width = scene.shape[:2]
    image = np.clip(scene, 0, 1) * np.array(camera.gain, dtype=np.float32)
    image = np.clip(image, 0, 1) ** np.float32(camera.gamma)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * camera.saturation
    image = 0.45 + (image - 0.45) * camera.contrast
    if camera.blur > 1:
        image = cv2.blur(image, (camera.blur, 1))
    low = (max(8, camera.pixels * width // height), camera.pixels)
    image = cv2.resize(image.astype(np.float32), low, interpolation=cv2.INTER_AREA)
    image = image + random.normal(0, camera.noise, image.shape).astype(np.float32)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255), dtype=np.uint8)


def view_background(camera: Camera, offset: float, width: int) -> Image:
    """Return the part of the background that is visible after the person has walked `offset` pixels; it is cyclic."""
    columns = (np.arange(width) + int(offset)) % camera.background.shape[1]
    return np.ascontiguousarray(camera.background[:, columns])


@dataclass(frozen=True)
class Obstacle:
    """An object between camera and person; `at` is the position of its centre in pixels of the background."""

    kind: int
    at: float
    colour: tuple[float, float, float]


def draw_obstacle(random: Random, way: tuple[float, float]) -> Obstacle:
    """Draw a pole, a bin, a hedge or a railing between the first and the last background offset of a walk."""
    colour = _OBJECTS[int(random.integers(len(_OBJECTS)))]
    return Obstacle(int(random.integers(4)), float(random.uniform(min(way), max(way))), colour)


def paint_obstacle(canvas: Image, obstacle: Obstacle, offset: float) -> None:
    """Paint the obstacle as it appears after the person has walked `offset` pixels."""
    height, width = canvas.shape[:2]
    x = int(obstacle.at - offset + width / 2)
    if obstacle.kind == 0:
        reach = max(3, width // 18)
        cv2.rectangle(canvas, (x - reach, 0), (x + reach, height), obstacle.colour, -1)
        cv2.rectangle(canvas, (x - reach, 0), (x - reach // 2, height), _shaded(obstacle.colour, 1.4), -1)
    elif obstacle.kind == 1:
        reach, top = width // 4, int(0.66 * height)
        cv2.rectangle(canvas, (x - reach, top), (x + reach, height), obstacle.colour, -1)
        cv2.rectangle(canvas, (x - reach - 3, top - 7), (x + reach + 3, top), _shaded(obstacle.colour, 0.7), -1)
        cv2.rectangle(canvas, (x - reach, top), (x - reach // 2, height), _shaded(obstacle.colour, 1.25), -1)
    elif obstacle.kind == 2:
        reach, top = width // 2, int(0.72 * height)
        for step in range(-reach, reach + 1, 6):
            rise = int(5 * np.sin(0.37 * step) + 4 * np.sin(0.83 * step))
            shade = 0.8 + 0.25 * np.sin(1.7 * step)
            cv2.circle(canvas, (x + step, top + rise + 12), 14, _shaded((0.2, 0.33, 0.15), shade), -1, cv2.LINE_AA)
        cv2.rectangle(canvas, (x - reach, top + 14), (x + reach, height), (0.17, 0.28, 0.13), -1)
    else:
        reach = width
        for y in (0.62, 0.76):
            level = int(y * height)
            cv2.rectangle(canvas, (x - reach, level), (x + reach, level + 5), (0.68, 0.7, 0.72), -1)
            cv2.rectangle(canvas, (x - reach, level + 4), (x + reach, level + 5), (0.35, 0.36, 0.38), -1)


def paint_shadow(canvas: Image, foot: tuple[float, float], scale: float, side_light: float) -> None:
    """Darken the ground under the person."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    across = (x - foot[0] + side_light * scale * 0.5) / (0.2 * scale)
    along = (y - foot[1] + 0.012 * scale) / (0.035 * scale)
    canvas *= (1 - 0.45 * np.exp(-(across**2) - along**2))[..., None]


def _shaded(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _rough(random: Random, height: int, width: int, grain: int) -> Image:
    """Return smooth noise `[h, w]` around 0 with spots about `grain` pixels wide."""
    small = random.normal(0, 1, (max(2, height // grain), max(2, width // grain))).astype(np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _background(random: Random, index: int, height: int, width: int) -> Image:
    """Paint a street: ground, a wall or a hedge above the horizon, and objects along it."""
    horizon = int(height * random.uniform(0.3, 0.6))
    wall = np.array(_WALLS[index % len(_WALLS)], dtype=np.float32)
    ground = np.array(_GROUNDS[index % len(_GROUNDS)], dtype=np.float32)
    image: Image = np.empty((height, width, 3), dtype=np.float32)
    image[:horizon] = wall
    fade = np.linspace(0.82, 1.08, height - horizon, dtype=np.float32)[:, None, None]
    image[horizon:] = ground * fade
    _paint_wall(image, random, horizon, wall)
    _paint_ground(image, random, horizon, ground)
    for _ in range(int(random.integers(6, 12))):
        _paint_object(image, random, horizon)
    for grain, strength in ((48, 0.05), (12, 0.035), (3, 0.03)):
        image *= 1 + strength * _rough(random, height, width, grain)[..., None]
    # The background is slightly out of focus.
    return np.asarray(np.clip(cv2.GaussianBlur(image, (0, 0), 1.1), 0, 1), dtype=np.float32)


def _paint_wall(image: Image, random: Random, horizon: int, wall: Image) -> None:
    width = image.shape[1]
    style = int(random.integers(3))
    dark, light = (tuple(float(c) for c in wall * factor) for factor in (0.72, 1.18))
    if style == 0:
        course = int(random.integers(9, 14))
        for row, y in enumerate(range(horizon, 0, -course)):
            cv2.line(image, (0, y), (width, y), dark, 1)
            for x in range((row % 2) * course, width, 2 * course):
                cv2.line(image, (x, y), (x, y - course), dark, 1)
    elif style == 1:
        pitch = int(random.integers(70, 130))
        for x in range(0, width, pitch):
            glass = 0.22 + 0.18 * random.random()
            cv2.rectangle(
                image, (x, int(0.12 * horizon)), (x + pitch * 2 // 3, horizon), (glass, glass * 1.05, glass * 1.12), -1
            )
            cv2.rectangle(image, (x, int(0.12 * horizon)), (x + pitch * 2 // 3, horizon), light, 2)
            cv2.line(image, (x + pitch // 3, int(0.12 * horizon)), (x + pitch // 3, horizon), light, 1)
    else:
        image[:horizon] = (0.16, 0.21, 0.12)
        for _ in range(2 * width):
            x, y, radius = int(random.integers(width)), int(random.integers(horizon + 1)), int(random.integers(3, 12))
            green = 0.2 + 0.22 * random.random()
            cv2.circle(image, (x, min(y, horizon - 4)), radius, (green * 0.75, green, green * 0.55), -1, cv2.LINE_AA)
    cv2.rectangle(image, (0, horizon - 5), (width, horizon), tuple(float(c) for c in wall * 0.55), -1)


def _paint_ground(image: Image, random: Random, horizon: int, ground: Image) -> None:
    height, width = image.shape[:2]
    if random.random() < 0.3:
        return
    joint = tuple(float(c) for c in ground * 0.8)
    rows = [int(horizon + (height - horizon) * (step / 9) ** 1.8) for step in range(1, 10)]
    for y in rows:
        cv2.line(image, (0, y), (width, y), joint, 1, cv2.LINE_AA)
    pitch = int(random.integers(40, 90))
    for x in range(-width // 4, width + width // 4, pitch):
        cv2.line(image, (x, horizon), (x + int((x % 3 - 1) * 10) + 18, height), joint, 1, cv2.LINE_AA)


def _paint_object(image: Image, random: Random, horizon: int) -> None:
    """Paint a door, a post, a parked bicycle or a sign in the background."""
    height, width = image.shape[:2]
    x = int(random.integers(width))
    colour = _shaded(_OBJECTS[int(random.integers(len(_OBJECTS)))], float(random.uniform(0.7, 1.3)))
    kind = int(random.integers(4))
    floor = horizon + int(random.uniform(0.0, 0.25) * (height - horizon))
    if kind == 0:
        cv2.rectangle(image, (x, int(0.25 * horizon)), (x + 45, horizon), colour, -1)
        cv2.rectangle(image, (x, int(0.25 * horizon)), (x + 45, horizon), _shaded(colour, 0.5), 2)
    elif kind == 1:
        cv2.rectangle(image, (x, 0), (x + 6, floor), colour, -1)
    elif kind == 2:
        for wheel in (x, x + 38):
            cv2.circle(image, (wheel, floor - 16), 16, (0.12, 0.12, 0.12), 2, cv2.LINE_AA)
        frame = np.array(
            [[x, floor - 16], [x + 14, floor - 36], [x + 32, floor - 36], [x + 38, floor - 16], [x + 18, floor - 16]]
        )
        cv2.polylines(image, [frame.astype(np.int32)], True, colour, 2, cv2.LINE_AA)
        cv2.line(image, (x + 12, floor - 44), (x + 18, floor - 16), colour, 2, cv2.LINE_AA)
    else:
        cv2.rectangle(image, (x + 18, floor - 60), (x + 22, floor), (0.4, 0.4, 0.42), -1)
        cv2.rectangle(image, (x, floor - 90), (x + 40, floor - 55), colour, -1)
        cv2.rectangle(image, (x + 3, floor - 87), (x + 37, floor - 58), _shaded(colour, 1.6), 1)
