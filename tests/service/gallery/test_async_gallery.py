import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.gallery.async_gallery import AsyncGallery
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.protocol import Gallery
from service.gallery.records import DuplicateId, Filter, GalleryBroken
from service.telemetry.metrics import Metrics
from tests.service.gallery.samples import open_gallery, record


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedGallery]:
    gallery = open_gallery(tmp_path)
    yield gallery
    gallery.close()


def index_calls(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("not3d_stage_seconds_count", {"stage": "index"})


def test_calls_run_in_the_pool_and_are_timed_also_if_they_fail(embedded: EmbeddedGallery) -> None:
    metrics = Metrics()
    gallery = AsyncGallery(embedded, 2, metrics, on_broken=lambda _: None)

    async def use() -> None:
        await gallery.add(record("a"))
        with pytest.raises(DuplicateId):
            await gallery.add(record("a"))
        found = await gallery.get("a")
        assert found
        assert found.id == "a"
        assert await gallery.count() == 1
        assert await gallery.expire() == 0

    asyncio.run(use())
    assert index_calls(metrics) == 3  # neither `count` nor `expire`
    assert any(thread.name.startswith("gallery") for thread in threading.enumerate())


def test_a_broken_gallery_is_reported_by_every_kind_of_call(
    embedded: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise GalleryBroken("restart the service")

    for name in ("get", "count", "check"):
        monkeypatch.setattr(EmbeddedGallery, name, broken)
    reported: list[str] = []
    gallery = AsyncGallery(embedded, 1, Metrics(), on_broken=lambda error: reported.append(str(error)))

    async def use() -> None:
        with pytest.raises(GalleryBroken):
            await gallery.get("a")
        with pytest.raises(GalleryBroken):
            await gallery.count()
        with pytest.raises(GalleryBroken):
            gallery.check()

    asyncio.run(use())
    assert reported == ["restart the service"] * 3


def test_close_waits_for_calls_that_have_begun(embedded: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def held(_: EmbeddedGallery) -> int:
        begun.set()
        assert may_end.wait(120)
        events.append("counted")
        return 0

    monkeypatch.setattr(EmbeddedGallery, "count", held)
    monkeypatch.setattr(EmbeddedGallery, "close", lambda _: events.append("closed"))
    gallery = AsyncGallery(embedded, 1, Metrics(), on_broken=lambda _: None)

    async def use() -> None:
        counting = asyncio.create_task(gallery.count())
        await asyncio.to_thread(begun.wait, 20)
        closing = asyncio.create_task(gallery.close())
        await asyncio.sleep(0.05)
        assert events == []
        may_end.set()
        await asyncio.gather(counting, closing)

    asyncio.run(use())
    monkeypatch.undo()
    assert events == ["counted", "closed"]


def test_close_gives_up_on_a_call_that_does_not_end(embedded: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(EmbeddedGallery, "get", lambda *_: may_end.wait(20) and None)
    gallery = AsyncGallery(embedded, 2, Metrics(), on_broken=lambda _: None)

    async def use() -> None:
        getting = asyncio.create_task(gallery.get("a"))
        await asyncio.sleep(0.02)
        assert await gallery.count() == 0  # metrics ask for it, and it says little
        assert gallery.find_stall(0.01)
        assert not await gallery.close(0.05)
        may_end.set()
        assert await getting is None
        assert gallery.find_stall(0.01) is None
        assert await gallery.close()

    asyncio.run(use())


def test_calls_that_may_take_long_are_no_stall(embedded: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(EmbeddedGallery, "erase", lambda *_, **__: may_end.wait(20) and None)
    gallery = AsyncGallery(embedded, 1, Metrics(), on_broken=lambda _: None)

    async def use() -> None:
        erasing = asyncio.create_task(gallery.erase(Filter(camera_ids=("c",)), dry_run=False))
        await asyncio.sleep(0.05)
        assert gallery.find_stall(0.01) is None
        may_end.set()
        assert await erasing is None

    asyncio.run(use())


@pytest.mark.parametrize("name", ["add", "get", "search", "erase", "list", "audit", "count"])
def test_methods_have_the_signature_and_docstring_of_the_protocol(name: str) -> None:
    method = getattr(AsyncGallery, name)
    assert inspect.signature(method) == inspect.signature(getattr(Gallery, name))
    assert method.__doc__ == getattr(Gallery, name).__doc__
    assert inspect.iscoroutinefunction(method)
