"""The ranked picture: a query's frames, and next to them the best hits with score, camera, id and probability.

A probability is drawn as that of a probable appearance. Nothing in the picture says that a person was identified.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from model.frames import FrameError, decode_frame
from not3d.client import Client, ProblemError
from not3d.client.responses import SearchResult, format_probability
from not3d.enrol.footage import PICTURES, Image, pick_evenly
from not3d.enrol.local_frames import find_local_frames
from not3d.enrol.tracklets import is_same_person

Colour = tuple[int, int, int]

_CELL_HEIGHT, _CELL_WIDTH = 208, 104
_SEAM = 3
_BORDER = 6
_PANEL_WIDTH = 2 * _CELL_WIDTH + _SEAM + 2 * _BORDER
_PANEL_HEIGHT = 2 * _CELL_HEIGHT + _SEAM + 2 * _BORDER
_MARGIN, _GAP, _QUERY_GAP = 36, 20, 48
_TOP, _CAPTION, _LEGEND = 112, 96, 54
_LINE_HEIGHT = 28
"""Of the line that the captions and the legend get if hits have a probability."""

_INK: Colour = (31, 35, 41)
_GREY: Colour = (112, 119, 128)
_PALE: Colour = (240, 241, 243)
_LINE: Colour = (222, 225, 229)
_SAME: Colour = (26, 152, 80)
_OTHER: Colour = (205, 49, 49)
_UNKNOWN: Colour = (158, 164, 172)
_LEGENDS = ((_SAME, "same person"), (_OTHER, "another person"), (_UNKNOWN, "person unknown"))


@dataclass(frozen=True)
class Panel:
    """One tracklet of the picture.

    `frames` are RGB `[h, w, 3]` in time order, of any sizes and number. `same_person` says whether it shows the query's
    person, and is `None` if that is unknown. `score` is `None` for the query itself, `probability` also if the
    service has no calibration.
    """

    frames: Sequence[Image]
    id: str
    camera: str | None = None
    score: float | None = None
    same_person: bool | None = None
    probability: float | None = None


def draw_ranked(
    query: Panel,
    hits: Sequence[Panel],
    *,
    title: str = "Where else was this person seen?",
    subtitle: str = "",
    basis: str = "",
    warnings: Sequence[str] = (),
) -> Image:
    """Draw the query at the left and the hits in their order at the right, RGB `[h, w, 3]`.

    `basis` says what the probabilities are based on; it is drawn only if hits have one. `warnings` are sentences about
    the query, drawn above the legend.
    """
    columns = max(len(hits), 1)
    width = 2 * _MARGIN + _PANEL_WIDTH + _QUERY_GAP + columns * (_PANEL_WIDTH + _GAP) - _GAP
    extra = _LINE_HEIGHT if any(hit.probability is not None for hit in hits) else 0
    lines = [line for warning in warnings for line in _wrap(f"Warning: {warning}", 15, width - 2 * _MARGIN)]
    height = _TOP + _PANEL_HEIGHT + _CAPTION + _LEGEND + 2 * extra + _LINE_HEIGHT * len(lines)
    canvas: Image = np.full((height, width, 3), 255, dtype=np.uint8)
    _write(canvas, title, (_MARGIN, 52), size=26, bold=True, limit=width - 2 * _MARGIN)
    _write(canvas, subtitle, (_MARGIN, 82), size=16, colour=_GREY, limit=width - 2 * _MARGIN)
    _draw_panel(canvas, query, _MARGIN, _INK, heading="Query")
    divider = _MARGIN + _PANEL_WIDTH + _QUERY_GAP // 2
    cv2.line(canvas, (divider, _TOP), (divider, _TOP + _PANEL_HEIGHT + _CAPTION + extra - 12), _LINE, 2)
    left = _MARGIN + _PANEL_WIDTH + _QUERY_GAP
    for rank, hit in enumerate(hits, start=1):
        _draw_panel(canvas, hit, left, _truth_colour(hit), heading=f"{rank}")
        left += _PANEL_WIDTH + _GAP
    if not hits:
        _write(canvas, "no hits", (left, _TOP + _PANEL_HEIGHT // 2), size=18, colour=_GREY)
    if extra and basis:
        at = (_MARGIN, height - 26 - _LINE_HEIGHT)
        _write(canvas, f"probable appearance: {basis}", at, size=15, colour=_GREY, limit=width - 2 * _MARGIN)
    bottom = height - 26 - _LINE_HEIGHT * (1 + bool(extra and basis))
    for number, line in enumerate(reversed(lines)):
        _write(canvas, line, (_MARGIN, bottom - _LINE_HEIGHT * number), size=15, colour=_OTHER)
    _draw_legend(canvas, hits)
    return canvas


def write_picture(path: Path, image: Image) -> None:
    """Write an RGB image; the suffix decides the format.

    Raises:
        ValueError: the suffix is not .png, .jpg, .jpeg or .webp.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise ValueError(f"a picture must be .png, .jpg or .webp (got {path})")
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())


def read_thumbnails(client: Client, id: str, count: int) -> list[Image]:
    """Return the pictures, RGB, that the service keeps of a record; fewer if it was removed meanwhile."""
    pictures = []
    for frame in range(count):
        with suppress(ProblemError, FrameError):
            pictures.append(decode_frame(client.thumbnail(id, frame)))
    return pictures


def make_panels(
    result: SearchResult,
    person: str,
    folders: Sequence[Path],
    kept: Mapping[str, list[Image]] | None = None,
    *,
    count: int = 5,
) -> list[Panel]:
    """Return the best hits for `draw_ranked`, with the frames that are found below the folders, or those `kept`."""
    return [
        Panel(
            find_local_frames(hit.metadata, folders) or (kept or {}).get(hit.id, []),
            hit.id,
            hit.camera_id,
            hit.score,
            is_same_person(hit, person),
            hit.probability,
        )
        for hit in result.hits[:count]
    ]


def _truth_colour(panel: Panel) -> Colour:
    if panel.same_person is None:
        return _UNKNOWN
    return _SAME if panel.same_person else _OTHER


def _draw_panel(canvas: Image, panel: Panel, left: int, colour: Colour, heading: str) -> None:
    cv2.rectangle(canvas, (left, _TOP), (left + _PANEL_WIDTH - 1, _TOP + _PANEL_HEIGHT - 1), colour, -1)
    inner = canvas[_TOP + _BORDER : _TOP + _PANEL_HEIGHT - _BORDER, left + _BORDER : left + _PANEL_WIDTH - _BORDER]
    inner[:] = 255
    chosen = [panel.frames[index] for index in pick_evenly(len(panel.frames))]
    for number in range(PICTURES):
        y, x = (number // 2) * (_CELL_HEIGHT + _SEAM), (number % 2) * (_CELL_WIDTH + _SEAM)
        cell = inner[y : y + _CELL_HEIGHT, x : x + _CELL_WIDTH]
        cell[:] = _PALE
        if number < len(chosen):
            _fit(cell, chosen[number])
    if not chosen:
        _write(canvas, "no frames", (left + _BORDER + 44, _TOP + _PANEL_HEIGHT // 2), size=15, colour=_GREY)
    baseline = _TOP + _PANEL_HEIGHT + 34
    if panel.score is None:
        _write(canvas, heading, (left, baseline), size=22, bold=True)
    else:
        cv2.circle(canvas, (left + 15, baseline - 8), 15, colour, -1, cv2.LINE_AA)
        text_width = _text_width(heading, 17, bold=True)
        _write(canvas, heading, (left + 15 - text_width // 2, baseline - 2), size=17, bold=True, colour=(255, 255, 255))
        _write(canvas, f"{panel.score:.3f}", (left + 42, baseline), size=22, bold=True)
    if panel.camera:
        camera = _shorten(f"camera {panel.camera}", 16, _PANEL_WIDTH - 120)
        _write(canvas, camera, (left + _PANEL_WIDTH - _text_width(camera, 16), baseline), size=16, colour=_INK)
    _write(canvas, panel.id, (left, baseline + 30), size=16, colour=_GREY, limit=_PANEL_WIDTH)
    if panel.probability is not None:
        text = f"probable appearance {format_probability(panel.probability)}"
        _write(canvas, text, (left, baseline + 30 + _LINE_HEIGHT), size=15, limit=_PANEL_WIDTH)


def _fit(cell: Image, frame: Image) -> None:
    """Draw the complete frame into the cell, with its aspect ratio."""
    height, width = frame.shape[:2]
    scale = min(cell.shape[0] / height, cell.shape[1] / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(frame, (new_width, new_height), interpolation=kind)
    top, left = (cell.shape[0] - new_height) // 2, (cell.shape[1] - new_width) // 2
    cell[top : top + new_height, left : left + new_width] = resized


def _draw_legend(canvas: Image, hits: Sequence[Panel]) -> None:
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
    """Return OpenCV's face, scale and thickness for letters about `size` pixels high."""
    return (cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX), size / 30, 1


def _text_width(text: str, size: int, *, bold: bool = False) -> int:
    (width, _), _ = cv2.getTextSize(text, *_font(size, bold=bold))
    return int(width)


def _wrap(text: str, size: int, limit: int) -> list[str]:
    """Divide a sentence into lines of at most `limit` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and _text_width(f"{lines[-1]} {word}", size) <= limit:
            lines[-1] += f" {word}"
        else:
            lines.append(_shorten(word, size, limit))
    return lines


def _shorten(text: str, size: int, limit: int, *, bold: bool = False) -> str:
    """Shorten a text wider than `limit` pixels in its middle, because the ends of ids differ."""
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
