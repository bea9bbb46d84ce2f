"""How fast the network runs on an NVIDIA GPU, and how close to the GPU's peak: ``bash benchmarks/cuda.sh``."""
