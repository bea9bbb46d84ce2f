"""Select the worst and the best queries for the report, and draw them with their answers."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import cv2
import numpy as np

from model.frames import decode_frame, resize_frame
from model.tracklet import split_into_clips
from training.datasets.tracklet import Tracklet
from training.evaluation.scoring import EvaluationResult

THUMBNAIL = (112, 56)
"""Height and width of an embedded frame in pixels."""
FRAMES = 8
"""Maximum number of frames shown of a tracklet."""
_PER_STRIP = 4
_JPEG_QUALITY = 72
_MARKUP = 3000
"""Upper estimate of the bytes of a tracklet's text on the page."""


@dataclass(frozen=True)
class Strip:
    """Up to four frames side by side in one JPEG."""

    source: str
    """as a `data:` URL"""
    weights: list[float] | None
    """attention of each frame; None if the model has none"""
    frames: int


@dataclass(frozen=True)
class ShownTracklet:
    """A query or an answer on the page."""

    person: str
    camera: str
    strips: list[Strip]
    rank: int = 0
    """from 1; 0 for the query"""
    distance: float = 0.0
    right: bool = False

    @property
    def size(self) -> int:
        """Return an upper estimate of the bytes on the page."""
        return _MARKUP + sum(len(strip.source) for strip in self.strips)


@dataclass(frozen=True)
class Row:
    """A query and its answers."""

    query: ShownTracklet
    answers: list[ShownTracklet]
    beyond: ShownTracklet | None
    """the first right answer if it is not among `answers`"""
    first_hit: int
    average_precision: float

    @property
    def size(self) -> int:
        """Return an upper estimate of the bytes on the page."""
        return sum(shown.size for shown in (self.query, *self.answers, *([self.beyond] if self.beyond else [])))


def order_queries(result: EvaluationResult, count: int) -> tuple[list[int], list[int]]:
    """Return the indices in `result.rank` of the worst and of the best queries; no query is in both.

    The worst and the best are first. The order is by average precision, then by the rank of the first right answer,
    then that of the dataset.
    """
    metrics = result.rank
    worst = sorted(range(metrics.valid_queries), key=lambda i: (metrics.average_precision[i], -metrics.first_hit[i], i))
    lowest = min(count, (len(worst) + 1) // 2)
    return worst[:lowest], worst[lowest:][::-1][:count]


def draw_rows(
    result: EvaluationResult, *, count: int, answers: int, max_bytes: int
) -> tuple[list[Row], list[Row], bool]:
    """Draw the worst and the best queries.

    Args:
        result: of the evaluation
        count: number of worst and of best queries
        answers: number of answers for each query
        max_bytes: size limit

    Returns:
        The rows of the worst and of the best queries, and whether some were left out because of `max_bytes`.

    Raises:
        OSError, FrameError: a frame cannot be read.
    """
    drawing = _TrackletDrawing(result)
    lists: tuple[list[Row], list[Row]] = ([], [])
    used = 0
    for pair in zip_longest(*order_queries(result, count)):
        for rows, index in zip(lists, pair, strict=True):
            if index is None:
                continue
            row = _row(result, drawing, index, answers)
            if used + row.size > max_bytes:
                return *lists, True
            rows.append(row)
            used += row.size
    return *lists, False


def _row(result: EvaluationResult, drawing: "_TrackletDrawing", index: int, count: int) -> Row:
    number = int(result.rank.valid[index])
    query = result.query[number]
    ranked = list(_ranked(result, number))
    first = int(result.rank.first_hit[index])
    shown = [drawing.show(result.gallery[column], rank, distance, query) for rank, column, distance in ranked[:count]]
    beyond = None
    if first > count:
        rank, column, distance = ranked[first - 1]
        beyond = drawing.show(result.gallery[column], rank, distance, query)
    return Row(drawing.show(query), shown, beyond, first, float(result.rank.average_precision[index]))


def _ranked(result: EvaluationResult, number: int) -> Iterator[tuple[int, int, float]]:
    """Yield rank, column and distance of the answers, without the rows that `rank_metrics` leaves out."""
    query, distances = result.query[number], result.distances[number]
    rank = 0
    for column in np.argsort(distances, kind="stable"):
        row = result.gallery[column]
        if row.person != query.person or row.camera != query.camera:
            rank += 1
            yield rank, int(column), float(distances[column])


class _TrackletDrawing:
    """Draw each tracklet once, even if it is in several rows."""

    def __init__(self, result: EvaluationResult) -> None:
        self._result = result
        self._drawn: dict[Tracklet, list[Strip]] = {}

    def show(
        self, tracklet: Tracklet, rank: int = 0, distance: float = 0.0, query: Tracklet | None = None
    ) -> ShownTracklet:
        if tracklet not in self._drawn:
            self._drawn[tracklet] = self._draw(tracklet)
        right = query is not None and tracklet.person == query.person
        return ShownTracklet(tracklet.person, tracklet.camera, self._drawn[tracklet], rank, distance, right)

    def _draw(self, tracklet: Tracklet) -> list[Strip]:
        """Draw the first clip with its attention, or frames spread over the tracklet if there is no attention."""
        weights = self._result.frame_weights(tracklet) if self._result.frame_weights else None
        length = self._result.clip_length
        if weights is not None:
            indices = split_into_clips(len(tracklet.frames), length)[0]
        else:
            indices = np.linspace(0, len(tracklet.frames) - 1, min(length, len(tracklet.frames))).round().astype(int)
        kept = np.linspace(0, len(indices) - 1, min(len(indices), FRAMES)).round().astype(int)
        pictures = [resize_frame(decode_frame(tracklet.frames[indices[i]].read_bytes()), *THUMBNAIL) for i in kept]
        return [
            Strip(
                _encode(pictures[start : start + _PER_STRIP]),
                None if weights is None else [weights[i] for i in kept[start : start + _PER_STRIP]],
                len(pictures[start : start + _PER_STRIP]),
            )
            for start in range(0, len(pictures), _PER_STRIP)
        ]


def _encode(pictures: list[np.typing.NDArray[np.uint8]]) -> str:
    strip = np.concatenate(pictures, axis=1)[..., ::-1]
    _, encoded = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
