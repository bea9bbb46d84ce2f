from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.gallery import clock as gallery_clock
from tests.bundles import make_bundle
from tests.service.live import Live, run_service


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real bundle."""
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def shared(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that the tests of a module share; each test uses its own ids."""
    with run_service(bundle, tmp_path_factory.mktemp("data")) as live:
        yield live


@pytest.fixture
def live(bundle: Path, tmp_path: Path) -> Iterator[Live]:
    """A service with an empty gallery."""
    with run_service(bundle, tmp_path / "data") as live:
        yield live


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the gallery's clock ahead by so many seconds."""
    now, ahead = gallery_clock.now, 0

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += int(seconds * 1_000_000)

    monkeypatch.setattr(gallery_clock, "now", lambda: now() + ahead)
    return move
