from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.gallery import Gallery
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.gallery.engines import ENGINES, MilvusPlace, milvus_place
from tests.service.gallery.samples import at, open_gallery


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[EmbeddedGallery]:
    opened = open_gallery(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=ENGINES)
def place(request: pytest.FixtureRequest) -> Iterator[MilvusPlace | None]:
    """Where the galleries of a Milvus are; `None` for the embedded one, of which every test gets its own."""
    if request.param == "embedded":
        yield None
        return
    with milvus_place(request.param) as place:
        place.open().close()
        yield place


@pytest.fixture
def any_gallery(place: MilvusPlace | None, tmp_path: Path) -> Iterator[Gallery]:
    """A gallery of each engine in turn."""
    if place:
        place.empty()
    opened = place.open() if place else open_gallery(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time to so many minutes after noon; it is noon until then."""

    def turn(minutes: float) -> None:
        monkeypatch.setattr("service.gallery.clock.now", lambda: int(at(minutes).timestamp() * 10**6))

    turn(0)
    return turn
