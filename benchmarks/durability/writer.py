"""A process that changes a gallery from several threads until it is killed.

Each thread owns some ids. It prints one line of JSON before each change and one after the gallery's answer, so the
reader knows what was acknowledged and what was in progress.
"""

import hashlib
import json
import logging
import os
import random
import signal
import sys
import threading
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery import JSON, Filter, Record
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index import rebuild, saver
from service.gallery.watch.records import AlertRules, Watchlist, WatchVector


def tell(**facts: Any) -> None:
    """Write one line with one system call, so lines of different threads are not mixed."""
    os.write(1, json.dumps(facts).encode() + b"\n")


class Thread:
    """One thread's ids, with the acknowledged state of each."""

    def __init__(self, gallery: EmbeddedGallery, thread: int, seed: int, known: dict[str, str]) -> None:
        self._gallery = gallery
        self._thread = thread
        self._seed = seed
        self._dice = random.Random(f"{thread}-{seed}")
        self._states = {name: state for name, state in known.items() if name.startswith(f"t{thread}-")}

    def run(self) -> None:
        for number in range(10**9):
            change = self._dice.choices((self._one, self._many, self._delete, self._erase), (8, 3, 3, 1))[0]
            change(number)

    def _one(self, number: int) -> None:
        name = self._name()
        state = self._state(name, number)
        is_new = self._states.get(name, ABSENT) == ABSENT
        self._begin({name: state})
        if is_new:
            self._gallery.add(make_record(name, state))
        else:
            self._gallery.put(make_record(name, state))
        self._done({name: state})

    def _many(self, number: int) -> None:
        names = {self._name() for _ in range(self._dice.randrange(2, 9))}
        changes = {name: self._state(name, number) for name in sorted(names)}
        self._begin(changes)
        self._gallery.enrol([make_record(name, state) for name, state in changes.items()], "replace")
        self._done(changes)

    def _delete(self, _number: int) -> None:
        name = self._name()
        self._begin({name: ABSENT})
        deleted = self._gallery.delete(name)
        self._done({name: ABSENT}, deleted=[name] if deleted else [])

    def _erase(self, _number: int) -> None:
        group = self._dice.randrange(GROUPS)
        changes = {f"t{self._thread}-{number}": ABSENT for number in range(group, IDS_OF_A_THREAD, GROUPS)}
        self._begin(changes)
        condition = Filter(camera_ids=(f"camera-{self._thread}",), metadata={"group": group})
        self._done(changes, receipt=self._gallery.erase(condition, dry_run=False).receipt)

    def _name(self) -> str:
        return f"t{self._thread}-{self._dice.randrange(IDS_OF_A_THREAD)}"

    def _state(self, name: str, number: int) -> str:
        return f"{name}-{self._seed}-{number}"

    def _begin(self, changes: dict[str, str]) -> None:
        tell(phase="begin", thread=self._thread, changes=changes)

    def _done(self, changes: dict[str, str], **facts: Any) -> None:
        self._states |= changes
        tell(phase="done", thread=self._thread, changes=changes, **facts)


def pass_by(gallery: EmbeddedGallery, dice: random.Random) -> None:
    """Enrol and erase other records all the time, so the index file is written often."""
    for number in range(10**9):
        gallery.enrol([make_passing(1000 * number + one) for one in range(dice.randrange(1, 30))], "replace")
        gallery.erase(Filter(camera_ids=(PASSING,)), dry_run=False)


def die_at_step(directory: Path, step: int) -> None:
    """Kill this process just before its `step`-th file operation in the directory."""
    left = step

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in {"open", "os.rename", "os.remove", "os.truncate"} and str(arguments[0]).startswith(str(directory)):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def hurry() -> None:
    """Lower the thresholds for saving, compacting and rebuilding the index, so they happen within a second."""
    saver._MIN_CHANGES_TO_SAVE = 50
    rebuild._MIN_DEAD_TO_COMPACT = 20


def main() -> None:
    """Read one JSON argument (directory, seed, approximate, step, closing) and known states from standard input."""
    given = json.loads(sys.argv[1])
    known: dict[str, str] = json.load(sys.stdin)
    directory, seed = Path(given["directory"]), int(given["seed"])
    hurry()
    logging.disable(logging.WARNING)  # rebuilt indexes are expected here
    if given["step"]:
        die_at_step(directory, given["step"])
    tell(phase="opening")
    gallery = open_gallery(directory, approximate=given["approximate"])
    tell(phase="open")
    jobs = [threading.Thread(target=pass_by, args=(gallery, random.Random(seed)), daemon=True)]
    jobs += [threading.Thread(target=Thread(gallery, n, seed, known).run, daemon=True) for n in range(THREADS)]
    if given["closing"] is not None:
        threading.excepthook = lambda _: None  # they find the gallery closed, as expected
    for job in jobs:
        job.start()
    if given["closing"] is not None:
        threading.Event().wait(given["closing"])
        tell(phase="closing")
        gallery.close()
        tell(phase="closed")
    threading.Event().wait()


THREADS = 5
IDS_OF_A_THREAD = 24
GROUPS = 6
DIMENSION = 32
SPACE = "0123456789abcdef"
ABSENT = "absent"
WEBHOOK = "target"
PASSING = "passing"
"""Camera of the records that `pass_by` enrols and erases."""
_NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
_ROWS_OF_EXACT_INDEX = 40


def vector(state: str) -> NDArray[np.float32]:
    """Return the unit vector `[DIMENSION]` of a state."""
    seed = list(hashlib.sha256(state.encode()).digest())
    values = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (values / np.linalg.norm(values)).astype(np.float32)


def thumbnail(state: str) -> bytes | None:
    """Return the thumbnail of a state; every third state has none."""
    return None if zlib.crc32(state.encode()) % 3 == 0 else b"\xff\xd8\xff" + state.encode() * 20


def make_record(name: str, state: str) -> Record:
    """Return the record of an id `t<thread>-<number>`; its state determines all of its fields."""
    thread, number = name[1:].split("-")
    metadata: dict[str, JSON] = {"state": state, "group": int(number) % GROUPS}
    return Record(
        id=name,
        embedding=vector(state),
        camera_id=f"camera-{thread}",
        start_time=_NOON,
        end_time=None,
        metadata=metadata,
        frames=len(state),
        clips=1,
        created_at=_NOON,
        thumbnails=(picture,) if (picture := thumbnail(state)) else (),
    )


def make_passing(number: int) -> Record:
    return Record(
        id=f"passing-{number}",
        embedding=vector(PASSING),
        camera_id=PASSING,
        start_time=None,
        end_time=None,
        metadata={},
        frames=1,
        clips=1,
        created_at=_NOON,
    )


def open_gallery(directory: Path, *, approximate: bool) -> EmbeddedGallery:
    """Open the gallery; with `approximate`, the index is approximate from some dozens of records on.

    A watchlist raises an alert for each record, except those of `pass_by`, and each alert has a delivery.
    """
    gallery = EmbeddedGallery.open(
        directory,
        embedding_space=SPACE,
        dimension=DIMENSION,
        model_name="durability",
        exact_bytes=4 * DIMENSION * (_ROWS_OF_EXACT_INDEX if approximate else 10**6),
    )
    gallery.start_alerts(AlertRules(webhooks={WEBHOOK: None}))
    if not gallery.matcher().watchlists:
        gallery.put_watchlist(
            Watchlist(
                name="all",
                uid="all",
                min_score=-1.0,
                min_probability=None,
                prior=None,
                filter=Filter(exclude_camera_ids=(PASSING,)),
                cooldown=0.0,
                expires_at=None,
                created_at=_NOON,
                updated_at=_NOON,
                created_by="durability",
                vectors=(WatchVector(vector("watched")),),
            )
        )
    return gallery


if __name__ == "__main__":
    main()
