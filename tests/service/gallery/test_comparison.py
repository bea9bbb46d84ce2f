"""The same random calls on the embedded gallery and on Milvus have the same results."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.gallery import Filter, Gallery, GalleryError, Record
from tests.service.gallery.engines import MILVUS, milvus_database
from tests.service.gallery.samples import JPEG, at, open_gallery, record, vector

STEPS = 150
MINUTES = range(8)
CAMERAS = ["c1", "c2", "", "ü", "\U0001f600", "日本", "'", 'a"b', "a\\", "\\\"'\n\r\t\x01", '"] or id != "', "%", "c_"]
CAMERAS = ["c1", "c2", "", "ü", "\U0001f600", "日本", "'", 'a"b', "a\\", "\\\"'\n\r\t\x01", '"] or id != "', "%", "c_"]


@dataclass
class Scores:  # noqa: PLW1641 (compared only)
    """Scores that are equal up to the error of single precision."""

    values: list[float]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scores) and self.values == pytest.approx(other.values, abs=1e-6)


class Steps:
    """Random calls, each as a function of a gallery that returns what must be equal in two galleries."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def draw(self) -> Callable[[Gallery], object]:
        kinds = [
            self.add,
            self.put,
            self.put,
            self.enrol_or_replace,
            self.enrol_or_skip,
            self.delete,
            self.search,
            self.search,
            self.page,
        ]
        kinds += [self.erase, self.expire, self.read, self.audit]
        return self.random.choice(kinds)()

    def add(self) -> Callable[[Gallery], object]:
        one = self.record()
        return lambda gallery: gallery.add(one)

    def put(self) -> Callable[[Gallery], object]:
        one = self.record()
        return lambda gallery: gallery.put(one)

    def enrol_or_replace(self) -> Callable[[Gallery], object]:
        many = [self.record() for _ in range(self.random.randint(0, 6))]
        return lambda gallery: gallery.enrol(many, "replace")

    def enrol_or_skip(self) -> Callable[[Gallery], object]:
        many = [self.record() for _ in range(self.random.randint(0, 6))]
        return lambda gallery: gallery.enrol(many, "skip")

    def delete(self) -> Callable[[Gallery], object]:
        name = self.id()
        return lambda gallery: gallery.delete(name, by="key")

    def search(self) -> Callable[[Gallery], object]:
        query, top_k, wanted = self.vector(), self.random.randint(1, 30), self.filter()
        min_score = self.random.choice([None, None, 0.3])

        def step(gallery: Gallery) -> object:
            found = gallery.search(query, top_k, wanted, min_score)
            scores = Scores([hit.score for hit in found.hits])
            return [facts(hit.record) for hit in found.hits], found.searched, found.exact, scores

        return step

    def page(self) -> Callable[[Gallery], object]:
        wanted, limit = self.filter(), self.random.randint(1, 7)

        def step(gallery: Gallery) -> object:
            pages, cursor = [], None
            while True:
                page = gallery.list(wanted, limit=limit, cursor=cursor)
                pages.append([facts(item) for item in page.items])
                if (cursor := page.next_cursor) is None:
                    return pages

        return step

    def erase(self) -> Callable[[Gallery], object]:
        wanted, dry_run = self.filter(), self.random.random() < 0.7

        def step(gallery: Gallery) -> object:
            erasure = gallery.erase(wanted, dry_run=dry_run, by="key")
            return erasure.matched, erasure.erased, erasure.receipt is None

        return step

    def expire(self) -> Callable[[Gallery], object]:
        return lambda gallery: gallery.expire()

    def read(self) -> Callable[[Gallery], object]:
        name = self.id()

        def step(gallery: Gallery) -> object:
            found = gallery.get(name)
            return found and facts(found), gallery.thumbnail(name), gallery.count()

        return step

    def audit(self) -> Callable[[Gallery], object]:
        limit = self.random.randint(1, 5)

        def step(gallery: Gallery) -> object:
            pages = [gallery.audit(limit=limit)]
            pages.append(gallery.audit(limit=limit, before=pages[0][-1].receipt) if pages[0] else [])
            return [[(e.time, e.action, e.by, e.filter, e.erased) for e in page] for page in pages]

        return step

    def record(self) -> Record:
        times = sorted(self.random.choices(MINUTES, k=2))
        return record(
            self.id(),
            embedding=self.vector(),
            camera_id=self.random.choice([None, self.camera()]),
            start_time=self.random.choice([None, at(times[0])]),
            end_time=self.random.choice([None, at(times[1])]),
            metadata=self.metadata(),
            expires_at=self.random.choice([None, None, at(self.random.choice(MINUTES))]),
            thumbnail=self.random.choice([None, JPEG + bytes(self.random.choices(range(256), k=60_000))]),
        )

    def filter(self) -> Filter:
        times = sorted(self.random.choices(MINUTES, k=2))
        return Filter(
            camera_ids=self.random.choice([None, None, (), (self.camera(), self.camera())]),
            exclude_camera_ids=self.random.choice([(), (self.camera(),)]),
            after=self.random.choice([None, None, at(times[0])]),
            before=self.random.choice([None, None, at(times[1])]),
            metadata=self.random.choice([{}, {}, self.metadata()]),
            exclude_ids=self.random.choice([(), (self.id(), self.id())]),
        )

    def metadata(self) -> dict[str, object]:
        values = [1, 1.0, True, "1", None, [1], {"x": 1}, {"x": True}, "\ud83d", 2**70, 'a "quoted" \\ \n text']
        return {key: self.random.choice(values) for key in self.random.sample(["k", "l", "", 'k"]'], k=2)}

    def camera(self) -> str:
        return self.random.choice(CAMERAS)

    def id(self) -> str:
        return f"id{self.random.choice('.-:_AZaz09')}{self.random.randrange(5)}"

    def vector(self) -> object:
        return vector(f"direction {self.random.randrange(12)}")


def facts(one: Record) -> object:
    names = ("id", "camera_id", "start_time", "end_time", "metadata", "frames", "clips", "created_at", "expires_at")
    return one.embedding.tobytes(), one.thumbnail_count, [repr(getattr(one, name)) for name in names]


def outcome(step: Callable[[Gallery], object], gallery: Gallery) -> object:
    try:
        return step(gallery)
    except GalleryError as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("name", MILVUS)
def test_milvus_answers_as_the_embedded_gallery(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(seed=7)
    with milvus_database(name) as database:
        one, other = open_gallery(tmp_path), database.open()
        for number in range(STEPS):
            minutes = number * len(MINUTES) / STEPS
            monkeypatch.setattr(
                "service.gallery.clock.now", lambda minutes=minutes: int(at(minutes).timestamp() * 10**6)
            )
            step = steps.draw()
            assert outcome(step, one) == outcome(step, other), f"step {number}: {step.__qualname__}"
        assert one.count() > 5
        assert len(one.audit(limit=1000)) > 10
        one.close()
        other.close()
