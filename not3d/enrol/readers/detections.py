"""What every dialect of tracks is read into."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Detection:
    """One box as it is in the file.

    `line` is the line, or the number of the object, from 1. `frame` counts as the file does. `track` is "" if the box
    belongs to no track, `label` is "" if no class is given. `counts` is false if the file says that the box is not to
    be considered. `x, y, w, h` are corner and size.
    """

    line: int
    frame: int
    track: str
    x: float
    y: float
    w: float
    h: float
    label: str = ""
    counts: bool = True


@dataclass(frozen=True)
class Detections:
    """The boxes of a file and what its dialect says about them.

    `frame_base` is the number of the first frame, `person_class` that of people among classes with numbers. If
    `relative`, boxes are in shares of the frame's width and height.
    """

    detections: list[Detection]
    description: str
    frame_base: int
    person_class: str
    relative: bool = False


def track_name(text: str) -> str:
    """Return the name of a track; "" for a box without a track, whose id is empty, a word for no value, or below 0.

    Raises:
        ValueError: a number that is not whole.
    """
    if text.strip().casefold() in {"", "none", "null", "nan", "n/a", "na"}:
        return ""
    try:
        value = float(text.replace(",", ".")) if "_" not in text else None
    except ValueError:
        return text.strip()
    if value is None:
        return text.strip()
    if value % 1 != 0:  # also true for infinity
        raise ValueError(f"the track {text} is not a whole number")
    if value < 0:
        return ""
    return text.strip().lstrip("+").lstrip("0") or "0" if text.strip().lstrip("+").isdecimal() else str(int(value))
