"""The PyTorch networks; the only part of `model` that imports torch."""

from model.network.reid import NetworkOutput, VideoReID, build_network
from model.network.spec import NetworkSpec

__all__ = ["NetworkOutput", "NetworkSpec", "VideoReID", "build_network"]
