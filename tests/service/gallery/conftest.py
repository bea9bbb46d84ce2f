from collections.abc import Iterator
from pathlib import Path

import pytest

from service.gallery import EmbeddedGallery
from tests.service.gallery.samples import open_gallery


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[EmbeddedGallery]:
    opened = open_gallery(tmp_path / "data")
    yield opened
    opened.close()
