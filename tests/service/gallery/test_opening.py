"""The gallery that the settings open, and the errors if it cannot be opened."""

import sys
from pathlib import Path

import pytest

from model.bundle import Bundle
from not3d.ports import free_port
from service.gallery import GalleryError, GalleryUnavailable
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.opening import open_gallery
from service.settings import Settings
from tests.service.gallery.engines import HAS_LITE


def test_the_embedded_gallery_is_the_default(bundle: Path, tmp_path: Path) -> None:
    loaded = Bundle.load(bundle)
    gallery = open_gallery(Settings(bundle=bundle, data_dir=tmp_path), loaded.space)
    assert isinstance(gallery, EmbeddedGallery)
    assert (gallery.embedding_space, gallery.dimension) == (loaded.embedding_space, loaded.spec.dimension)
    gallery.close()


def test_a_missing_extra_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("service.gallery.milvus")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(GalleryError, match=r"pip install 'not3d\[milvus\]'"):
        open_gallery(Settings(bundle=bundle, gallery="milvus://127.0.0.1"), Bundle.load(bundle).space)


@pytest.mark.skipif(not HAS_LITE, reason="pymilvus is not installed")
def test_a_server_that_does_not_run_is_unavailable(bundle: Path) -> None:
    settings = Settings(bundle=bundle, gallery=f"milvus://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(GalleryUnavailable, match=r"Milvus at 127\.0\.0\.1:\d+ does not answer") as raised:
        open_gallery(settings, Bundle.load(bundle).space)
    assert "secret" not in str(raised.value)
