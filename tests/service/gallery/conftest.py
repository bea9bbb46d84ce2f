from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.gallery import Gallery
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.gallery.engines import ENGINES, MilvusDatabase, milvus_database
from tests.service.gallery.samples import at, open_gallery


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[EmbeddedGallery]:
    opened = open_gallery(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=ENGINES)
def database(request: pytest.FixtureRequest) -> Iterator[MilvusDatabase | None]:
    """The database of a Milvus engine; `None` for the embedded engine, of which every test gets a new gallery."""
    if request.param == "embedded":
        yield None
        return
    with milvus_database(request.param) as database:
        database.open().close()
        yield database


@pytest.fixture
def any_gallery(database: MilvusDatabase | None, tmp_path: Path) -> Iterator[Gallery]:
    """An empty gallery of each engine in turn."""
    if database:
        database.empty()
    opened = database.open() if database else open_gallery(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the time to so many minutes after noon. At first it is noon."""

    def turn(minutes: float) -> None:
        monkeypatch.setattr("service.gallery.clock.now", lambda: int(at(minutes).timestamp() * 10**6))

    turn(0)
    return turn
