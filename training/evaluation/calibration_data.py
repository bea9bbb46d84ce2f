"""What a calibration is fitted on: labelled tracklets that a bundle embeds, or a CSV of judged pairs."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from model.bundle import Bundle
from model.calibration import CalibrationError, Mode
from model.engines import embed_in_parallel, open_engine
from training.datasets.catalog import read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets
from training.evaluation.pairs import Pairs, pairs_of_features

_YES = frozenset({"1", "true", "yes", "same"})
_NO = frozenset({"0", "false", "no", "different"})
_COLUMNS = "score,same or id_a,id_b,same; optional: person_a,person_b,camera_a,camera_b"
_COSINE_MARGIN = 1e-3


def select_tracklets(bundle: Bundle, data: Sequence[Path], *, aside: bool) -> tuple[list[Tracklet], str]:
    """Return the tracklets to fit on, and whose they are in words.

    Args:
        bundle: whose recipe knows the people set aside.
        data: datasets, read together as training reads them.
        aside: take only the people whom the training of `bundle` set aside; data must be its training data.

    Raises:
        CalibrationError: the training set no people aside.
        DatasetError: from the data.
    """
    tracklets = read_training(data)
    names = ", ".join(path.name for path in data)
    people = len({tracklet.person for tracklet in tracklets})
    if not aside:
        return tracklets, f"people of {names}"
    recipe = bundle.spec.recipe
    if not recipe.get("validation_share"):
        raise CalibrationError(
            f"{bundle.path}: its training set no people aside (its recipe has no validation_share); calibrate on "
            "people that it was not trained on, without --set-aside"
        )
    _, chosen = set_aside(tracklets, float(str(recipe["validation_share"])), int(str(recipe["seed"])))
    if not chosen:
        raise CalibrationError(
            f"none of the {people} people of {names} were set aside when {bundle.spec.name} was trained; calibrate "
            "without --set-aside, on people that it was not trained on"
        )
    return chosen, f"people of {names} whom the training set aside"


def embed_pairs(
    bundle: Bundle, tracklets: Sequence[Tracklet], *, progress: Callable[[], None] | None = None, seed: int = 1
) -> Pairs:
    """Embed tracklets with all clips, as the service does, and return their pairs; `progress` is called after each."""
    spec = bundle.spec
    features = embed_tracklets(
        embed_in_parallel(open_engine(bundle)),
        tracklets,
        frame_size=(spec.frame_height, spec.frame_width),
        resampling=spec.preprocessing.resampling,
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
        progress=progress,
    )
    return pairs_of_features(features, [t.person for t in tracklets], [t.camera for t in tracklets], seed=seed)


@dataclass(frozen=True)
class JudgedPairs:
    """The rows of a CSV. Each has a score, two ids or both; what the file has no columns for is None."""

    path: Path
    lines: tuple[int, ...]
    same: tuple[bool, ...]
    scores: tuple[float, ...] | None
    ids: tuple[tuple[str, str], ...] | None
    people: tuple[tuple[str, str], ...] | None
    cameras: tuple[tuple[str, str], ...] | None


def read_judged_pairs(path: Path, mode: Mode = "cosine") -> JudgedPairs:
    """Read a CSV with a header: `score,same` or `id_a,id_b,same`, separated by commas, semicolons or tabs.

    `same` is 1, true, yes or same; or 0, false, no or different.

    Raises:
        CalibrationError: the file is not such a CSV; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: not a text file in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    header = text.partition("\n")[0].strip()
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, restval="")
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise CalibrationError(f"{path}: line 1: {error}; save it as CSV again") from None
    reader.fieldnames = names
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise CalibrationError(f"{path}: line 1: the column {twice[0]} is there twice; remove one of them")
    by_id = {"id_a", "id_b"} <= set(names)
    if "same" not in names or ("score" not in names and not by_id):
        raise CalibrationError(f"{path}: line 1: the header must name the columns {_COLUMNS} (got '{header[:80]}')")
    rows: list[tuple[int, Mapping[str, str]]] = []
    try:
        for row in reader:
            if any(value.strip() for value in row.get(None, ())):
                raise CalibrationError(
                    f"{path}: line {reader.line_num}: more values than the header has columns; if numbers have a "
                    "decimal comma, separate columns by semicolons and write numbers with a point"
                )
            values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            if any(values.values()):
                rows.append((reader.line_num, values))
    except csv.Error as error:
        raise CalibrationError(f"{path}: line {reader.line_num}: {error}; save it as CSV again") from None
    ids = _columns(path, rows, "id") if by_id else None
    _refuse_repeated(path, (line for line, _ in rows), ids or ())
    scores = None if "score" not in names else tuple(_score(path, line, row["score"], mode) for line, row in rows)
    return JudgedPairs(
        path,
        tuple(line for line, _ in rows),
        tuple(_same(path, line, row["same"]) for line, row in rows),
        scores,
        ids,
        _columns(path, rows, "person") if {"person_a", "person_b"} <= set(names) else None,
        _columns(path, rows, "camera") if {"camera_a", "camera_b"} <= set(names) else None,
    )


def pairs_of_judged(judged: JudgedPairs, scores: ArrayLike | None = None) -> tuple[Pairs, int]:
    """Return the pairs of a CSV from different cameras, and the number of pairs from one camera, which are left out.

    Tracklets with ids are joined to people by the pairs that are the same. Without ids and persons, each pair counts as
    one of its own.

    Args:
        judged: the rows of the CSV.
        scores: of rows with ids; by default those of the file.

    Raises:
        CalibrationError: the rows contradict each other; the message names the line.
    """
    values = np.asarray(judged.scores if scores is None else scores, np.float64)
    people = judged.people
    if people is None and judged.ids is not None:
        groups = _join(pair for pair, same in zip(judged.ids, judged.same, strict=True) if same)
        people = tuple((groups.get(a, a), groups.get(b, b)) for a, b in judged.ids)
    for line, same, pair in zip(judged.lines, judged.same, people or (), strict=False):
        if same != (pair[0] == pair[1]):
            what = "one person" if pair[0] == pair[1] else "two people"
            raise CalibrationError(
                f"{judged.path}: line {line}: 'same' is {int(same)}, but other rows or the persons '{pair[0]}' and "
                f"'{pair[1]}' make it {what}; correct one of them"
            )
    mated = np.array(judged.same, np.bool_)
    if people is None:
        first, second = np.arange(len(mated)), np.full(len(mated), -1)
    else:
        numbers = np.unique(np.array(people, str).reshape(-1), return_inverse=True)[1].reshape(-1, 2)
        first, second = numbers[:, 0], numbers[:, 1]
    across = np.ones(len(mated), np.bool_)
    cameras = 0
    if judged.cameras is not None:
        across = np.array([a != b or not a for a, b in judged.cameras], np.bool_)
        cameras = len({camera for pair in judged.cameras for camera in pair if camera})
    pairs = Pairs(values, mated, first.astype(np.int64), second.astype(np.int64), cameras)
    return pairs.subset(across), int((~across).sum())


def _join(same: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a name of the person of each id, given pairs of ids that show one person."""
    groups: dict[str, set[str]] = {}
    for a, b in same:
        joined = groups.get(a, {a}) | groups.get(b, {b})
        groups |= dict.fromkeys(joined, joined)
    return {member: min(group) for member, group in groups.items()}


def _refuse_repeated(path: Path, lines: Iterable[int], ids: Iterable[tuple[str, str]]) -> None:
    """Refuse a pair that is judged twice: counted twice, it would support thresholds that the data does not."""
    seen: dict[tuple[str, ...], int] = {}
    for line, pair in zip(lines, ids, strict=False):
        first = seen.setdefault(tuple(sorted(pair)), line)
        if first != line:
            raise CalibrationError(
                f"{path}: line {line}: '{pair[0]}' and '{pair[1]}' were judged in line {first} already; remove one of "
                "the two lines"
            )


def _columns(path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], name: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for line, row in rows:
        pair = row[f"{name}_a"], row[f"{name}_b"]
        if name != "camera" and not all(pair):
            raise CalibrationError(
                f"{path}: line {line}: {name}_a and {name}_b must not be empty; fill them or omit both"
            )
        if name == "id" and pair[0] == pair[1]:
            raise CalibrationError(f"{path}: line {line}: id_a and id_b are both '{pair[0]}'; name two tracklets")
        pairs.append(pair)
    return tuple(pairs)


def _score(path: Path, line: int, text: str, mode: Mode) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CalibrationError(f"{path}: line {line}: score must be a number (got '{text[:40]}'); correct it")
    if mode != "reranked" and abs(value) > 1 + _COSINE_MARGIN:
        raise CalibrationError(
            f"{path}: line {line}: score must be -1 to 1, as the service's scores are (got {value:g}); correct it"
        )
    return value


def _same(path: Path, line: int, text: str) -> bool:
    if text.lower() in _YES | _NO:
        return text.lower() in _YES
    raise CalibrationError(f"{path}: line {line}: same must be 1 or 0 (got '{text[:40]}'); correct it")
