"""FLOP/s of large matrix products, the peak to compare a network with: `python -m benchmarks.peak DEVICE` prints it."""

import sys
import time

import torch

SIZES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024)}
ROUNDS = 5
REPEATS = {"cuda": 20, "cpu": 1}


def measure_peak(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest of several sizes and rounds."""
    return max(_measure(device, size, dtype) for size in SIZES[device])


def _measure(device: str, size: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(ROUNDS + 1):
        _wait(device)
        started = time.perf_counter()
        for _ in range(REPEATS[device]):
            left @ right
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 * REPEATS[device] / min(seconds[1:])  # the first round chooses kernels


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(measure_peak(sys.argv[1], torch.float16 if sys.argv[1] == "cuda" else torch.float32))
