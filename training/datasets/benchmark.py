"""What a dataset with test lists of its own is read into."""

from dataclasses import dataclass, field

from training.datasets.tracklet import Tracklet


@dataclass(frozen=True)
class Benchmark:
    """Training, query and gallery tracklets, of one split where the dataset has several.

    ``gallery`` does not hold the queries. MARS's distractors (0000) are in it; its junk (person -1) is kept apart.
    """

    kind: str
    train: list[Tracklet]
    query: list[Tracklet]
    gallery: list[Tracklet]
    split: int | None = None
    """from 0; ``None`` where the dataset has but one"""
    junk: list[Tracklet] = field(default_factory=list)
    """test tracklets that neither ask nor answer"""
