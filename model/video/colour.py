"""High dynamic range to standard dynamic range."""

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Transfer = Literal["pq", "hlg"]

WHITE_NITS = 203.0
"""The luminance of diffuse white in high dynamic range (ITU-R BT.2408), which becomes the white of the result."""
KNEE = 0.8
"""Above this share of white, highlights are compressed instead of clipped."""
PEAK = 4.0
"""Highlights up to this many times diffuse white keep some detail."""
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear RGB, ITU-R BT.2087."""
_STEPS = 4096


def tone_map(frame: NDArray[np.uint8], transfer: Transfer) -> NDArray[np.uint8]:
    """Return an RGB `uint8 [h, w, 3]` frame of BT.2020 primaries and PQ or HLG as standard sRGB.

    Diffuse white becomes white; a curve compresses what is brighter. Formulas: ITU-R BT.2100, BT.2087, IEC 61966-2-1.
    """
    linear = cv2.LUT(frame, _to_linear(transfer))
    linear = cv2.transform(linear, BT2020_TO_BT709)
    steps = np.clip(linear * (_STEPS / PEAK), 0, _STEPS - 1).astype(np.uint16)
    shown: NDArray[np.uint8] = _to_srgb()[steps]
    return shown


@lru_cache
def _to_linear(transfer: Transfer) -> NDArray[np.float32]:
    """Return 256 values of light, 1 for diffuse white."""
    signal = np.arange(256) / 255
    if transfer == "pq":
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        light = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = 1000 * scene**1.2  # the system gamma of a display of 1000 cd/m2
    return (light / WHITE_NITS).astype(np.float32)


@lru_cache
def _to_srgb() -> NDArray[np.uint8]:
    light = np.arange(_STEPS) * PEAK / _STEPS
    over = np.maximum(light - KNEE, 0)
    room = 1 - KNEE
    shown = np.where(light <= KNEE, light, KNEE + room * over / (over + room))
    encoded = np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.clip(np.rint(255 * encoded), 0, 255).astype(np.uint8)
    return table
