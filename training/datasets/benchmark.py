"""What a dataset with test lists of its own is read into."""

from dataclasses import dataclass

from training.datasets.tracklet import Tracklet


@dataclass(frozen=True)
class Benchmark:
    """Training, query and gallery tracklets, of one split where the dataset has several.

    ``gallery`` does not hold the queries; MARS's junk (person -1) is in none of the lists, its distractors (0000) are
    in the gallery.
    """

    kind: str
    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]
    split: int | None = None
    """from 0; ``None`` where the dataset has but one"""
