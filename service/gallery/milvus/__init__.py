"""A gallery on a Milvus server, shared by any number of service processes, called replicas here."""

from service.gallery.milvus.gallery import MilvusGallery

__all__ = ["MilvusGallery"]
