"""The gallery of many machines: the `Gallery` protocol on a Milvus server, shared by any number of replicas."""

from service.gallery.milvus.gallery import MilvusGallery

__all__ = ["MilvusGallery"]
