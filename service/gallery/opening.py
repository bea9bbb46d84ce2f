"""Open the gallery that the settings name."""

from model.errors import MissingExtra, extra
from model.space import EmbeddingSpace
from service.gallery.protocol import Gallery
from service.gallery.records import GalleryError
from service.settings import MIB, Settings


def open_gallery(settings: Settings, space: EmbeddingSpace) -> Gallery:
    """Open the gallery of this embedding space, or create it.

    Raises:
        GalleryUnavailable: the Milvus server does not answer; try again later.
        GalleryError: the gallery cannot be used, or a package is not installed; see `open` of the engines.
    """
    # Only the engine in use is imported: a replica on a Milvus server needs neither FAISS nor SQLite.
    if settings.milvus is None:
        with extra("vectors" if settings.vectors_only else "cpu"):
            from service.gallery.embedded.gallery import EmbeddedGallery
        return EmbeddedGallery.open(
            settings.data_dir,
            embedding_space=space.name,
            dimension=space.dimension,
            model_name=space.model,
            gpu_bytes=0 if settings.device == "cpu" else settings.gallery_gpu_mb * MIB,
            camera_centring=settings.camera_centring,
        )
    try:
        with extra("milvus"):
            from service.gallery.milvus import MilvusGallery
    except MissingExtra as error:
        raise GalleryError(f"NOT3D_GALLERY names a Milvus server, but {error}") from error
    return MilvusGallery.open(
        settings.milvus,
        embedding_space=space.name,
        dimension=space.dimension,
        model_name=space.model,
        shards=settings.milvus_shards,
        gpu=settings.milvus_gpu,
    )
