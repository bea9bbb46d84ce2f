from collections.abc import Iterator
from pathlib import Path

import pytest

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
