"""What names an embedding space: vectors of one space can be compared, vectors of two cannot."""

from dataclasses import dataclass
from typing import Final

SPACE_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
"""A bundle names its space by 16 hex digits, a hash of its network; an operator may choose any such name for others."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """An embedding space.

    Attributes:
        name: names it in records, answers, calibrations and files.
        dimension: number of components of each vector.
        model: the model that makes the vectors, for people.
    """

    name: str
    dimension: int
    model: str
