"""The ranked picture: a query's frames and, beside them, the best hits with score, camera and id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""RGB ``[h, w, 3]``."""
Colour = tuple[int, int, int]

FRAMES_PER_CARD = 4

_CELL_HEIGHT, _CELL_WIDTH = 208, 104
_SEAM = 3
_BORDER = 6
_CARD_WIDTH = 2 * _CELL_WIDTH + _SEAM + 2 * _BORDER
_CARD_HEIGHT = 2 * _CELL_HEIGHT + _SEAM + 2 * _BORDER
_MARGIN, _GAP, _QUERY_GAP = 36, 20, 48
_TOP, _CAPTION, _LEGEND = 112, 96, 54

_INK: Colour = (31, 35, 41)
_GREY: Colour = (112, 119, 128)
_PALE: Colour = (240, 241, 243)
_LINE: Colour = (222, 225, 229)
_SAME: Colour = (26, 152, 80)
_OTHER: Colour = (205, 49, 49)
_UNKNOWN: Colour = (158, 164, 172)
_LEGENDS = ((_SAME, "same person"), (_OTHER, "another person"), (_UNKNOWN, "not known who"))


@dataclass(frozen=True)
class Card:
    """One tracklet of the picture.

    ``frames`` are RGB ``[h, w, 3]`` in time order, of any sizes and number; ``same_person`` says whether it shows the
    query's person and is ``None`` where the truth is not known; ``score`` is ``None`` for the query itself.
    """

    frames: Sequence[Image]
    id: str
    camera: str | None = None
    score: float | None = None
    same_person: bool | None = None


def draw_ranked(query: Card, hits: Sequence[Card], *, title: str, subtitle: str = "") -> Image:
    """Draw the picture: the query to the left, the hits in their order to the right, RGB ``[h, w, 3]``."""
    columns = max(len(hits), 1)
    width = 2 * _MARGIN + _CARD_WIDTH + _QUERY_GAP + columns * (_CARD_WIDTH + _GAP) - _GAP
    height = _TOP + _CARD_HEIGHT + _CAPTION + _LEGEND
    canvas: Image = np.full((height, width, 3), 255, dtype=np.uint8)
    _write(canvas, title, (_MARGIN, 52), size=26, bold=True, limit=width - 2 * _MARGIN)
    _write(canvas, subtitle, (_MARGIN, 82), size=16, colour=_GREY, limit=width - 2 * _MARGIN)
    _draw_card(canvas, query, _MARGIN, _INK, heading="Query")
    divider = _MARGIN + _CARD_WIDTH + _QUERY_GAP // 2
    cv2.line(canvas, (divider, _TOP), (divider, _TOP + _CARD_HEIGHT + _CAPTION - 12), _LINE, 2)
    left = _MARGIN + _CARD_WIDTH + _QUERY_GAP
    for rank, hit in enumerate(hits, start=1):
        _draw_card(canvas, hit, left, _truth_colour(hit), heading=f"{rank}")
        left += _CARD_WIDTH + _GAP
    if not hits:
        _write(canvas, "nothing found", (left, _TOP + _CARD_HEIGHT // 2), size=18, colour=_GREY)
    _draw_legend(canvas, hits)
    return canvas


def write_picture(path: Path, image: Image) -> None:
    """Write an RGB image; the suffix decides the format.

    Raises:
        ValueError: a suffix other than .png, .jpg, .jpeg and .webp.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise ValueError(f"{path}: a picture is written as .png, .jpg or .webp")
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())


def pick_evenly(count: int, wanted: int = FRAMES_PER_CARD) -> list[int]:
    """At most ``wanted`` of ``count`` indices, evenly spaced: the middles of as many equal stretches."""
    taken = min(count, wanted)
    return [int((2 * place + 1) * count / (2 * taken)) for place in range(taken)]


def _truth_colour(card: Card) -> Colour:
    if card.same_person is None:
        return _UNKNOWN
    return _SAME if card.same_person else _OTHER


def _draw_card(canvas: Image, card: Card, left: int, colour: Colour, heading: str) -> None:
    cv2.rectangle(canvas, (left, _TOP), (left + _CARD_WIDTH - 1, _TOP + _CARD_HEIGHT - 1), colour, -1)
    inner = canvas[_TOP + _BORDER : _TOP + _CARD_HEIGHT - _BORDER, left + _BORDER : left + _CARD_WIDTH - _BORDER]
    inner[:] = 255
    chosen = [card.frames[index] for index in pick_evenly(len(card.frames))]
    for place in range(FRAMES_PER_CARD):
        y, x = (place // 2) * (_CELL_HEIGHT + _SEAM), (place % 2) * (_CELL_WIDTH + _SEAM)
        cell = inner[y : y + _CELL_HEIGHT, x : x + _CELL_WIDTH]
        cell[:] = _PALE
        if place < len(chosen):
            _fit(cell, chosen[place])
    if not chosen:
        _write(canvas, "no picture here", (left + _BORDER + 44, _TOP + _CARD_HEIGHT // 2), size=15, colour=_GREY)
    baseline = _TOP + _CARD_HEIGHT + 34
    if card.score is None:
        _write(canvas, heading, (left, baseline), size=22, bold=True)
    else:
        cv2.circle(canvas, (left + 15, baseline - 8), 15, colour, -1, cv2.LINE_AA)
        text_width = _text_width(heading, 17, bold=True)
        _write(canvas, heading, (left + 15 - text_width // 2, baseline - 2), size=17, bold=True, colour=(255, 255, 255))
        _write(canvas, f"{card.score:.3f}", (left + 42, baseline), size=22, bold=True)
    if card.camera:
        room = _CARD_WIDTH - 120
        camera = _shorten(f"camera {card.camera}", 16, room)
        _write(canvas, camera, (left + _CARD_WIDTH - _text_width(camera, 16), baseline), size=16, colour=_INK)
    _write(canvas, card.id, (left, baseline + 30), size=16, colour=_GREY, limit=_CARD_WIDTH)


def _fit(cell: Image, frame: Image) -> None:
    """Put the whole frame into the cell, in its own proportions."""
    height, width = frame.shape[:2]
    scale = min(cell.shape[0] / height, cell.shape[1] / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(frame, (new_width, new_height), interpolation=kind)
    top, left = (cell.shape[0] - new_height) // 2, (cell.shape[1] - new_width) // 2
    cell[top : top + new_height, left : left + new_width] = resized


def _draw_legend(canvas: Image, hits: Sequence[Card]) -> None:
    present = {_truth_colour(hit) for hit in hits}
    x, y = _MARGIN, canvas.shape[0] - 26
    for colour, label in _LEGENDS:
        if colour in present:
            cv2.rectangle(canvas, (x, y - 13), (x + 14, y + 1), colour, -1)
            _write(canvas, label, (x + 24, y), size=15, colour=_GREY)
            x += 24 + _text_width(label, 15) + 32
    note = "score: cosine similarity (1: the same vector)"
    _write(canvas, note, (canvas.shape[1] - _MARGIN - _text_width(note, 15), y), size=15, colour=_GREY)


def _font(size: int, *, bold: bool) -> tuple[int, float, int]:
    """OpenCV's face, scale and thickness for letters about ``size`` pixels high."""
    return (cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX), size / 30, 1


def _text_width(text: str, size: int, *, bold: bool = False) -> int:
    (width, _), _ = cv2.getTextSize(text, *_font(size, bold=bold))
    return int(width)


def _shorten(text: str, size: int, limit: int, *, bold: bool = False) -> str:
    """The text, its middle left out where it is wider than ``limit`` pixels: the ends of ids tell them apart."""
    if _text_width(text, size, bold=bold) <= limit:
        return text
    kept = len(text)
    while kept > 2:
        kept -= 1
        shorter = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        if _text_width(shorter, size, bold=bold) <= limit:
            return shorter
    return text[:1]


def _write(
    canvas: Image,
    text: str,
    at: tuple[int, int],
    *,
    size: int,
    colour: Colour = _INK,
    bold: bool = False,
    limit: int | None = None,
) -> None:
    shown = text if limit is None else _shorten(text, size, limit, bold=bold)
    face, scale, thickness = _font(size, bold=bold)
    cv2.putText(canvas, shown, at, face, scale, colour, thickness, cv2.LINE_AA)
