"""Speed on an NVIDIA GPU and share of the GPU's peak: `bash benchmarks/cuda.sh`. Never run on a GPU so far."""
