"""The gallery that the settings ask for."""

import importlib

from model.bundle import Bundle
from service.gallery.address import MilvusAddress
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.protocol import Gallery
from service.gallery.records import GalleryError
from service.settings import MIB, Settings


def open_gallery(settings: Settings, bundle: Bundle) -> Gallery:
    """Open the gallery of this bundle's embedding space, or create it.

    Raises:
        GalleryUnavailable: its server does not answer, and may do so later.
        GalleryError: it cannot be used, or what it needs is not installed; see the engines' own `open`.
    """
    if settings.milvus is not None:
        return _open_milvus(settings.milvus, settings, bundle)
    return EmbeddedGallery.open(
        settings.data_dir,
        embedding_space=bundle.embedding_space,
        dimension=bundle.spec.dimension,
        model_name=bundle.spec.name,
        gpu_bytes=0 if settings.device == "cpu" else settings.gallery_gpu_mb * MIB,
    )


def _open_milvus(address: MilvusAddress, settings: Settings, bundle: Bundle) -> Gallery:
    try:
        module = importlib.import_module("service.gallery.milvus")
    except ModuleNotFoundError as error:
        if error.name not in {"pymilvus", "grpc"}:
            raise
        raise GalleryError(
            f"NOT3D_GALLERY names a Milvus server, which needs the package {error.name}: pip install 'not3d[milvus]'"
        ) from error
    gallery: Gallery = module.MilvusGallery.open(
        address,
        embedding_space=bundle.embedding_space,
        dimension=bundle.spec.dimension,
        model_name=bundle.spec.name,
        shards=settings.milvus_shards,
        gpu=settings.milvus_gpu,
    )
    return gallery
