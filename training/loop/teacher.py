"""Features of a teacher, which is a better model than the one to train, for all training crops.

They are computed once and stored in the system's folder for temporary files, by the embedding space of the teacher and
a hash of the file of each crop. So another run, or a run with more data, computes only the features that are missing.
"""

import hashlib
import os
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.bundle import Bundle
from model.engines import embed_in_parallel, open_engine
from model.errors import Not3dError
from model.tracklet import normalise
from training.batches.composites import make_composites
from training.datasets.catalog import site_of
from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet

Features = NDArray[np.float32]

_BATCH, _BATCHES_PER_SAVE = 16, 100


class TeacherError(Not3dError):
    """Targets cannot be made from the features of a teacher."""


class TeacherSettings(BaseModel):
    """How the features of a teacher become the targets of the distillation losses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    crops: int = Field(
        2, ge=1, description="crops of each tracklet that the teacher sees, evenly spaced; the others get their mean"
    )
    centre_cameras: bool = Field(True, description="subtract the mean feature of each camera, over training people")
    whiten: float = Field(
        0.0,
        ge=0,
        le=1,
        description="whiten features by the covariance within a person: 0 does not, 1 trusts the covariance most; in "
        "between it is mixed with its mean variance",
    )
    person_share: float = Field(
        0.5, ge=0, le=1, description="share of the mean feature of the person in the target of a crop"
    )
    composites: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="invented crops that the teacher sees, too; batches draw from them (`batch.composites`)",
    )
    live: bool = Field(
        False,
        description="the teacher looks at each batch, at the same mirrored, zoomed and shifted crops as the network; "
        "needs `batch.on_device`. Each batch then has composites of its own",
    )


@dataclass(frozen=True)
class TeacherTargets:
    """Targets of unit length, by tracklet and frame."""

    frames: tuple[Features, ...]
    """`[frames, D]` of each tracklet, those of composites last"""
    people: dict[str, Features]
    """the mean target `[D]` of each person"""
    composites: tuple[Tracklet, ...] = ()
    """crops without a person, see `training.batches.composites`"""
    space: str = ""
    """embedding space of the teacher"""

    @property
    def dimension(self) -> int:
        """Length of a target."""
        return int(self.frames[0].shape[1])

    def of(self, tracklet: int, frames: Sequence[int]) -> Features:
        """Return the target `[D]` of a clip: the mean of the targets of its frames, with unit length."""
        target: Features = normalise(self.frames[tracklet][list(frames)].mean(axis=0))
        return target


def teacher_targets(
    bundle: Path, tracklets: Sequence[Tracklet], settings: TeacherSettings, seed: int, console: Console | None = None
) -> TeacherTargets:
    """Embed the crops that are not stored yet, and make the targets of all training tracklets.

    Args:
        bundle: of the teacher
        tracklets: of the training people
        settings: how features become targets
        seed: of the composites
        console: for progress

    Raises:
        TeacherError: the settings do not fit the data.
        BundleError, EngineError, FrameError: the bundle or a crop cannot be used.
    """
    chosen = [chosen_frames(len(tracklet.frames), settings.crops) for tracklet in tracklets]
    paths = [tracklet.frames[i] for tracklet, indices in zip(tracklets, chosen, strict=True) for i in indices]
    composites = make_composites(tracklets, settings.composites, seed)
    features = embed_crops(bundle, [*paths, *(each.frames[0] for each in composites)], console)
    targets = make_targets(tracklets, chosen, features, settings, composites)
    return replace(targets, space=Bundle.load(bundle).embedding_space)


def chosen_frames(count: int, crops: int) -> list[int]:
    """Return which of the frames of a tracklet the teacher sees: `crops` of them, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, crops).round().astype(int).tolist()))


def make_targets(
    tracklets: Sequence[Tracklet],
    chosen: Sequence[Sequence[int]],
    features: Features,
    settings: TeacherSettings,
    composites: Sequence[Tracklet] = (),
) -> TeacherTargets:
    """Make the targets of tracklets.

    Args:
        tracklets: of the training people
        chosen: the frames of each tracklet that have a feature
        features: `[crops, D]` of these frames, in the same order, and then of the composites
        settings: how features become targets
        composites: crops without a person; their mean is subtracted in place of a camera's

    Raises:
        TeacherError: `whiten` is set, but no person has two crops.
    """
    owner = np.repeat(np.arange(len(tracklets)), [len(indices) for indices in chosen])
    values = normalise(features)
    values, invented = values[: len(owner)], values[len(owner) :]
    frame_map = fit_features(tracklets, owner, values, settings)
    values = frame_map.apply(values, owner)
    if len(invented):
        invented = invented - invented.mean(axis=0)
        invented = invented if frame_map.matrix is None else invented @ frame_map.matrix
    means = np.stack([values[owner == i].mean(axis=0) for i in range(len(tracklets))])
    people = person_means(tracklets, means)
    share = settings.person_share
    frames = []
    for i, tracklet in enumerate(tracklets):
        own = np.repeat(normalise(means[i])[None], len(tracklet.frames), axis=0)
        own[list(chosen[i])] = values[owner == i]
        frames.append(normalise((1 - share) * own + share * people[tracklet.person]).astype(np.float32))
    frames += [target[None].astype(np.float32) for target in normalise(invented)]
    return TeacherTargets(tuple(frames), people, tuple(composites))


@dataclass(frozen=True)
class FeatureMap:
    """What makes targets of the features of a teacher: each step of `TeacherSettings` but the mean of the person."""

    offsets: Features
    """`[tracklets, D]`, subtracted from features of unit length: the mean of the camera, or of all"""
    matrix: Features | None
    """`[D, D]`, whitens; None leaves features as they are"""

    def apply(self, values: Features, owner: NDArray[np.int64]) -> Features:
        """Return the targets `[N, D]` of features of unit length; `owner` is the tracklet of each."""
        centred = values - self.offsets[owner]
        return normalise(centred if self.matrix is None else centred @ self.matrix)


def fit_features(
    tracklets: Sequence[Tracklet], owner: NDArray[np.int64], values: Features, settings: TeacherSettings
) -> FeatureMap:
    """Measure means and covariance of the features of a teacher.

    Args:
        tracklets: of the training people
        owner: the tracklet of each feature
        values: `[N, D]`, of unit length
        settings: which of them are used

    Raises:
        TeacherError: `whiten` is set, but no person has two crops.
    """
    offsets = np.repeat(values.mean(axis=0)[None], len(tracklets), axis=0)
    if settings.centre_cameras:
        cameras = np.array([f"{site_of(tracklet.person)}:{tracklet.camera}" for tracklet in tracklets])
        for camera in np.unique(cameras):
            offsets[cameras == camera] = values[cameras[owner] == camera].mean(axis=0)
    matrix = None
    if settings.whiten:
        people = [tracklets[int(i)].person for i in owner]
        matrix = _whitening(people, values - offsets[owner], settings.whiten)
    return FeatureMap(offsets, matrix)


def person_means(tracklets: Sequence[Tracklet], means: Features) -> dict[str, Features]:
    """Return the mean target of each person, of unit length, from those of the tracklets `[tracklets, D]`."""
    of_person: dict[str, list[Features]] = defaultdict(list)
    for tracklet, mean in zip(tracklets, means, strict=True):
        of_person[tracklet.person].append(mean)
    return {person: normalise(np.mean(parts, axis=0)) for person, parts in of_person.items()}


def stored_features(embedding_space: str) -> Path:
    """Return the file with the stored features of a teacher."""
    return Path(tempfile.gettempdir()) / f"not3d-teacher-{embedding_space}.npz"


def embed_crops(bundle: Path, paths: Sequence[Path], console: Console | None = None) -> Features:
    """Return the features `[len(paths), D]` of single crops, and store those that were not stored yet."""
    loaded = Bundle.load(bundle)
    store = _FeatureStore(stored_features(loaded.embedding_space))
    digests = [hashlib.sha256(path.read_bytes()).digest()[:16] for path in paths]
    missing = [(digest, path) for digest, path in zip(digests, paths, strict=True) if digest not in store.rows]
    missing = list(dict(missing).items())  # each crop once
    if missing:
        engine, spec = embed_in_parallel(open_engine(loaded)), loaded.spec
        size, resampling = (spec.frame_height, spec.frame_width), spec.preprocessing.resampling
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console or Console(quiet=True)) as progress:
            task = progress.add_task("teacher", total=len(missing))
            for number, start in enumerate(range(0, len(missing), _BATCH), 1):
                part = missing[start : start + _BATCH]
                frames = np.stack([read_picture(p, *size, resampling=resampling) for _, p in part])
                # A clip of one crop, repeated, because a bundle takes clips of a fixed length.
                clips = np.repeat(frames[:, None], spec.clip_length, axis=1)
                store.add([digest for digest, _ in part], engine(clips))
                if number % _BATCHES_PER_SAVE == 0:
                    store.save()
                progress.advance(task, len(part))
        store.save()
    return store.get(digests)


def _whitening(people: Sequence[str], values: Features, strength: float) -> Features:
    """Return the inverse root of the covariance within a person, which is what does not tell people apart."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, person in enumerate(people):
        rows[person].append(row)
    inner = [values[own] - values[own].mean(axis=0) for own in rows.values() if len(own) > 1]
    if not inner:
        raise TeacherError("teacher.whiten needs people with two crops, but there are none: set teacher.whiten = 0")
    differences = np.concatenate(inner)
    covariance = (differences.T @ differences / len(differences)).astype(np.float64)
    level = np.trace(covariance) / len(covariance)
    mixed = strength * covariance + (1 - strength) * level * np.eye(len(covariance))
    eigenvalues, vectors = np.linalg.eigh(mixed)
    matrix: Features = ((vectors / np.sqrt(np.maximum(eigenvalues, 1e-3 * level))) @ vectors.T).astype(np.float32)
    return matrix


class _FeatureStore:
    """Features by the hash of a crop; a damaged file counts as empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[bytes, int] = {}
        self._parts: list[NDArray[np.float16]] = []
        try:
            with np.load(path) as content:
                digests, features = content["digests"], content["features"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return
        self.rows = {digest.tobytes(): row for row, digest in enumerate(digests)}
        self._parts = [features]

    def add(self, digests: Sequence[bytes], features: NDArray[np.float32]) -> None:
        for digest in digests:
            self.rows[digest] = len(self.rows)
        self._parts.append(features.astype(np.float16))

    def get(self, digests: Sequence[bytes]) -> Features:
        features = np.concatenate(self._parts)
        return features[[self.rows[digest] for digest in digests]].astype(np.float32)

    def save(self) -> None:
        scratch = self.path.with_suffix(f".{os.getpid()}.partial.npz")
        digests = np.frombuffer(b"".join(self.rows), np.uint8).reshape(-1, 16)
        np.savez(scratch, digests=digests, features=np.concatenate(self._parts))
        scratch.replace(self.path)
