"""Draw a walking person, dressed, seen from any side.

The body is a three-dimensional skeleton whose parts are drawn as shaded, tapered limbs, distant ones first. Patterns of
clothes are functions of the angle around the body, so a shirt is consistent from the front, the side and the back, and
a backpack is visible only from the back and the sides.

Body coordinates: x to the person's left, y up from the ground, z forward; 1 is the height of an average person.
Angle `phi` around the vertical axis: 0 in front, positive to the person's left, `pi` at the back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""`[h, w, 3]` RGB, 0 to 1."""
Colour = tuple[float, float, float]
Shader = Callable[[Image, Image], Image]
"""From `phi [h, w]` and the position along the limb `[h, w]` (0 at its start, 1 at its end) to RGB `[h, w, 3]`."""

Pattern = Literal["plain", "hoops", "stripes", "checks", "block", "print", "open"]
Bottom = Literal["trousers", "shorts", "skirt"]
Hair = Literal["short", "long", "tail", "none"]
Bag = Literal["none", "backpack", "shoulder", "hand"]


@dataclass(frozen=True)
class Person:
    """The properties of a person that are the same at all cameras."""

    height: float
    build: float
    skin: Colour
    hair: Hair
    hair_colour: Colour
    cap: Colour | None
    top: Colour
    top_second: Colour
    pattern: Pattern
    long_sleeves: bool
    bottom: Bottom
    bottom_colour: Colour
    shoes: Colour
    bag: Bag
    bag_colour: Colour
    stride: float
    arm_swing: float
    cadence: float
    """phase of the gait per frame, in radians"""


@dataclass(frozen=True)
class View:
    """How the body is projected into the image.

    `yaw` 0 shows the front, `pi / 2` the person's right side, `pi` the back. `pitch` is the camera's downward angle
    (radians), `scale` the pixels of one unit of height, `foot` the image point (x, y) between the feet. `roll` tilts
    the image, as a fraction of the height. A positive `light` brightens the right side.
    """

    yaw: float
    pitch: float
    scale: float
    foot: tuple[float, float]
    roll: float
    light: float

    def project(self, point: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Return the image point (x, y) of a body point (x, y, z), and how near it is to the camera."""
        x, y, z = point
        right = x * np.cos(self.yaw) + z * np.sin(self.yaw)
        near = z * np.cos(self.yaw) - x * np.sin(self.yaw)
        up = y * np.cos(self.pitch) - near * np.sin(self.pitch)
        # Seen from above, the head is nearer than the feet.
        grow = 1 + 0.35 * np.sin(self.pitch) * (y - 0.5)
        image = (
            self.foot[0] + self.scale * (right * grow + self.roll * y),
            self.foot[1] - self.scale * up,
        )
        return np.array(image), float(near)


@dataclass(frozen=True)
class _Limb:
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    widths: tuple[float, ...]
    shader: Shader
    order: float
    """limbs are painted in ascending order: by nearness to the camera, or fixed for a layer of the body"""
    depth: float = 1.0
    """depth divided by width; a torso is flatter than a leg"""
    cap: float = 1.0
    """shape of the ends: 1 is a half circle, larger is flatter"""


def draw_walker(canvas: Image, person: Person, view: View, phase: float) -> None:
    """Paint the person onto the canvas at the given phase of the gait (radians; two steps are `2 pi`)."""
    for limb in sorted(_limbs(person, view, phase), key=lambda limb: limb.order):
        _paint(canvas, limb, view)


def _paint(canvas: Image, limb: _Limb, view: View) -> None:
    (x0, y0), _ = view.project(limb.start)
    (x1, y1), _ = view.project(limb.end)
    facing = np.hypot(np.cos(view.yaw), limb.depth * np.sin(view.yaw))
    radii = np.array(limb.widths) * view.scale * facing
    margin = float(radii.max()) + 2
    height, width = canvas.shape[:2]
    left, right = int(max(0, min(x0, x1) - margin)), int(min(width, max(x0, x1) + margin + 1))
    top, bottom = int(max(0, min(y0, y1) - margin)), int(min(height, max(y0, y1) + margin + 1))
    if left >= right or top >= bottom:
        return
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y0)
    dx = np.arange(left, right, dtype=np.float32) - np.float32(x0)
    length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
    along_x, along_y = (x1 - x0) / length, (y1 - y0) / length
    along = (dx * along_x + dy * along_y) / length
    # Across is positive to the right of a limb that points down.
    across = dx * along_y - dy * along_x
    place = np.clip(along, 0, 1)
    radius = np.interp(place, np.linspace(0, 1, len(radii)), radii).astype(np.float32)
    beyond = (along - place) * length * limb.cap
    cover = np.clip(radius - np.hypot(across, beyond) + 0.5, 0, 1)
    # Most of the rectangle around a limb is not covered by it. From here on, arrays have the covered pixels only.
    covered = cover > 0
    cover, across, place, radius = cover[covered], across[covered], place[covered], radius[covered]
    side = np.clip(across / np.maximum(radius, 1e-3), -1, 1)
    out = np.sqrt(1 - side**2)
    phi = np.arctan2(
        side * np.cos(view.yaw) - out * np.sin(view.yaw),
        side * np.sin(view.yaw) + out * np.cos(view.yaw),
    )
    shade = 0.66 + 0.34 * out + view.light * side
    colour = limb.shader(phi.astype(np.float32), place.astype(np.float32)) * shade[..., None]
    patch = canvas[top:bottom, left:right]
    below = patch[covered]
    patch[covered] = below + cover[..., None] * (colour - below)


def _limbs(person: Person, view: View, phase: float) -> list[_Limb]:
    legs = [_leg_joints(person, phase, side) for side in (1, -1)]
    lift = -min(float(joints[2][1]) for joints in legs) + 0.035
    rise = _vector(0, lift, 0)
    limbs = [
        limb for joints, side in zip(legs, (1, -1), strict=True) for limb in _leg(person, view, joints + rise, side)
    ]
    for side in (1, -1):
        limbs += _arm(person, view, rise, phase, side)
    limbs += _trunk(person, view, rise, phase)
    limbs += _head(person, view, rise)
    return [_resized(limb, person) for limb in limbs]


def _resized(limb: _Limb, person: Person) -> _Limb:
    height = person.height
    widths = tuple(width * height for width in limb.widths)
    return replace(limb, start=limb.start * height, end=limb.end * height, widths=widths)


def _vector(x: float, y: float, z: float) -> NDArray[np.float64]:
    return np.array([x, y, z], dtype=np.float64)


def _swing(angle: float) -> NDArray[np.float64]:
    """Return the unit vector that points down at angle 0 and forward at a positive angle."""
    return _vector(0, -np.cos(angle), np.sin(angle))


def _leg_joints(person: Person, phase: float, side: int) -> NDArray[np.float64]:
    """Return hip, knee, ankle and toe `[4, 3]`, before the body is put on the ground."""
    own = phase + (0 if side > 0 else np.pi)
    stride = person.stride * (0.65 if person.bottom == "skirt" else 1.0)
    thigh = stride * np.sin(own)
    # The knee bends while the leg swings forward.
    bend = 0.08 + 0.85 * max(0.0, float(np.cos(own))) ** 1.5 * stride / 0.45
    hip = _vector(side * 0.052 * person.build, 0.53, 0)
    knee = hip + 0.25 * _swing(thigh)
    ankle = knee + 0.245 * _swing(thigh - bend)
    toe = ankle + 0.075 * _swing(np.pi / 2 - 0.12 - 0.6 * bend) + _vector(side * 0.012, 0, 0)
    return np.stack([hip, knee, ankle, toe])


def _leg(person: Person, view: View, joints: NDArray[np.float64], side: int) -> list[_Limb]:
    hip, knee, ankle, toe = joints
    near = view.project(_vector(side * 0.05, 0.3, 0))[1]
    cloth = _plain(person.bottom_colour)
    skin = _plain(person.skin)
    wide = 0.9 + 0.1 * person.build
    thigh = cloth if person.bottom != "skirt" else skin
    shin = cloth if person.bottom == "trousers" else skin
    loose = 1.15 if person.bottom == "trousers" else 0.95
    limbs = [
        _Limb(
            ankle - 0.25 * (toe - ankle) - _vector(0, 0.008, 0),
            toe,
            (0.03, 0.031, 0.027),
            _plain(person.shoes),
            -3 + near,
            cap=1.2,
        ),
        _Limb(knee, ankle, (0.043 * wide, 0.041 * wide, 0.03 * loose), shin, -2.9 + near),
        _Limb(hip, knee, (0.066 * wide, 0.056 * wide, 0.045 * wide), thigh, -2.8 + near),
    ]
    if person.bottom == "shorts":
        hem = hip + 0.85 * (knee - hip)
        limbs.append(_Limb(hip, hem, (0.07 * wide, 0.064 * wide, 0.06 * wide), cloth, -2.7 + near, cap=3))
    return limbs


def _arm(person: Person, view: View, rise: NDArray[np.float64], phase: float, side: int) -> list[_Limb]:
    own = phase + (np.pi if side > 0 else 0)
    swing = person.arm_swing * np.sin(own)
    shoulder = _vector(side * 0.106 * person.build, 0.782, 0) + rise
    out = _vector(side * 0.16, 0, 0)
    elbow = shoulder + 0.165 * (_swing(swing - 0.1) + out)
    hand = elbow + 0.15 * (_swing(swing + 0.25 + 0.3 * max(0.0, float(np.sin(own)))) + 0.3 * out)
    near = view.project(_vector(side * 0.11, 0, 0))[1]
    # The near arm is in front of the trunk, the far arm behind it; seen from front or back, both are in front.
    order = near if near > -0.03 else -2 + near
    sleeve = _top_shader(person, sleeve=True)
    skin = _plain(person.skin)
    limbs = [
        _Limb(hand, hand + 0.03 * _swing(swing), (0.021, 0.018), skin, order + 0.01),
        _Limb(elbow, hand, (0.031, 0.024), sleeve if person.long_sleeves else skin, order + 0.02),
        _Limb(shoulder, elbow, (0.04, 0.037, 0.032), skin if not person.long_sleeves else sleeve, order + 0.03),
    ]
    if not person.long_sleeves:
        limbs.append(
            _Limb(shoulder, shoulder + 0.6 * (elbow - shoulder), (0.044, 0.046), sleeve, order + 0.04, cap=1.3)
        )
    if person.bag == "hand" and side < 0:
        bag = _plain(person.bag_colour)
        limbs.append(
            _Limb(hand + _vector(0, -0.05, 0), hand + _vector(0, -0.15, 0), (0.045, 0.06, 0.06), bag, order, 1.0, 2.5)
        )
    return limbs


def _trunk(person: Person, view: View, rise: NDArray[np.float64], phase: float) -> list[_Limb]:
    build = person.build
    sway = _vector(0.006 * np.sin(phase), 0, 0)
    neck, hips = _vector(0, 0.835, 0.0) + rise, _vector(0, 0.525, 0) + rise + sway
    widths = tuple(build * w for w in (0.05, 0.1, 0.122, 0.12, 0.112, 0.104, 0.1, 0.101, 0.105, 0.107))
    limbs = [
        _Limb(
            hips + _vector(0, 0.05, 0),
            hips + _vector(0, -0.03, 0),
            (0.098 * build, 0.1 * build),
            _plain(person.bottom_colour),
            -2.5,
            0.72,
            3,
        ),
        _Limb(neck, hips, widths, _top_shader(person), -1, 0.66, 4.5),
        _Limb(neck + _vector(0, -0.02, 0), neck + _vector(0, 0.05, 0.008), (0.036, 0.033), _plain(person.skin), -0.6),
    ]
    if person.bottom == "skirt":
        hem = hips + _vector(0, -0.27, 0.01 * np.sin(2 * phase))
        flare = tuple(build * w for w in (0.1, 0.115, 0.125, 0.135))
        limbs.append(_Limb(hips + _vector(0, 0.03, 0), hem, flare, _plain(person.bottom_colour), -2, 1.0, 5))
    behind = view.project(_vector(0, 0, -0.1))[1]
    if person.bag == "backpack":
        top, low = neck + _vector(0, -0.05, -0.105), neck + _vector(0, -0.24, -0.115)
        red, green, blue = person.bag_colour
        pocket = _plain((0.7 * red, 0.7 * green, 0.7 * blue))
        limbs.append(_Limb(top, low, (0.07, 0.083, 0.085), _plain(person.bag_colour), behind * 20, 0.75, 2.2))
        if behind > 0:
            limbs.append(_Limb(low + _vector(0, 0.07, 0), low, (0.055, 0.055), pocket, behind * 20 + 0.01, 0.75, 2.5))
    if person.bag == "shoulder":
        at = hips + _vector(0.135 * build, 0.04, 0)
        order = view.project(_vector(0.13, 0, 0))[1]
        bag = _plain(person.bag_colour)
        limbs.append(
            _Limb(at, at + _vector(0, -0.11, 0), (0.055, 0.06), bag, order * 20 + (2 if order > -0.03 else -3), 1.2, 3)
        )
    return limbs


def _head(person: Person, view: View, rise: NDArray[np.float64]) -> list[_Limb]:
    top, chin = _vector(0, 0.945, 0.008) + rise, _vector(0, 0.893, 0.014) + rise
    limbs = [_Limb(top, chin, (0.056, 0.056, 0.043), _head_shader(person), 0.5, 1.12)]
    behind = view.project(_vector(0, 0, -0.05))[1]
    hair = _plain(person.hair_colour)
    if person.hair == "long":
        back = _vector(0, 0, -0.035)
        # Seen from the front it is visible at both sides of the neck, behind the shoulders.
        order = 0.6 if behind > 0 else -1.5
        limbs.append(
            _Limb(top + back, chin + back + _vector(0, -0.1, 0), (0.058, 0.064, 0.062, 0.05), hair, order, 0.8, 2)
        )
    if person.hair == "tail":
        knot = top + _vector(0, 0.01, -0.06)
        limbs.append(
            _Limb(knot, knot + _vector(0, -0.12, -0.025), (0.026, 0.024, 0.012), hair, 0.55 if behind > -0.01 else -1.5)
        )
    if person.cap is not None:
        cap = _plain(person.cap)
        limbs.append(_Limb(top + _vector(0, 0.03, 0), top + _vector(0, 0.012, 0), (0.045, 0.059), cap, 0.7, 1.1, 1.3))
        brim = top + _vector(0, 0.008, 0.05)
        ahead = 0.75 if view.project(_vector(0, 0, 1.0))[1] > -0.3 else 0.4
        limbs.append(_Limb(brim, brim + _vector(0, -0.012, 0.05), (0.032, 0.024), _plain(person.cap), ahead, 1.0, 1.5))
    return limbs


def _plain(colour: Colour) -> Shader:
    def shade(phi: Image, place: Image) -> Image:
        # Faint folds, so that cloth does not have a uniform colour.
        fold = 1 + 0.04 * np.sin(4 * phi + 11 * place) + 0.03 * np.sin(2 * phi - 19 * place + 1)
        return np.asarray(np.array(colour, dtype=np.float32) * fold[..., None], dtype=np.float32)

    return shade


def _top_shader(person: Person, *, sleeve: bool = False) -> Shader:
    base, second = _plain(person.top), _plain(person.top_second)

    def shade(phi: Image, place: Image) -> Image:
        colour = base(phi, place)
        other = second(phi, place)
        mask = _pattern_mask(person.pattern, phi, place, sleeve=sleeve)
        colour = np.where(mask[..., None], other, colour)
        if not sleeve and person.bag == "backpack":
            straps = (np.abs(np.abs(phi) - 0.62) < 0.13) & (place < 0.55)
            colour = np.where(straps[..., None], np.array(person.bag_colour, dtype=np.float32), colour)
        if not sleeve and person.bag == "shoulder":
            # From the right shoulder to the left hip, on the chest and on the back.
            height = 0.12 + 0.8 * (np.sin(phi) + 1) / 2
            strap = np.abs(place - height) < 0.045
            colour = np.where(strap[..., None], np.array(person.bag_colour, dtype=np.float32) * 0.8, colour)
        return np.asarray(colour, dtype=np.float32)

    return shade


def _pattern_mask(pattern: Pattern, phi: Image, place: Image, *, sleeve: bool) -> NDArray[np.bool_]:
    """Return where the second colour is visible."""
    if pattern == "hoops":
        return np.asarray((place * (4 if sleeve else 8)) % 1 < 0.45)
    if pattern == "stripes":
        return np.asarray((phi * 3.5 / np.pi * 2) % 1 < 0.4)
    if pattern == "checks":
        return np.asarray(((place * 6) % 1 < 0.5) ^ ((phi * 6 / np.pi) % 1 < 0.5))
    if pattern == "block":
        return np.asarray(place > 0.5) if not sleeve else np.zeros(phi.shape, dtype=np.bool_)
    if pattern == "print" and not sleeve:
        return np.asarray((np.abs(phi) < 0.6) & (np.abs(place - 0.36) < 0.11))
    if pattern == "open" and not sleeve:
        return np.asarray(np.abs(phi) < 0.38)
    return np.zeros(phi.shape, dtype=np.bool_)


def _head_shader(person: Person) -> Shader:
    skin = np.array(person.skin, dtype=np.float32)
    hair = np.array(person.hair_colour, dtype=np.float32)

    def shade(phi: Image, place: Image) -> Image:
        ahead = np.abs(phi)
        colour = np.broadcast_to(skin, (*phi.shape, 3)).copy()
        eyes = (np.abs(ahead - 0.42) < 0.16) & (np.abs(place - 0.42) < 0.1)
        colour[eyes] = skin * 0.35
        if person.hair != "none":
            # Hair from the forehead down to the neck at the back.
            line = np.interp(ahead, [0.0, 1.0, 1.5, 2.0, np.pi], [0.08, 0.12, 0.45, 1.2, 1.2])
            colour[place < line] = hair
        return colour

    return shade
