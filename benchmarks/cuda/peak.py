"""Print TFLOP/s of large matrix products as JSON: `python -m benchmarks.cuda.peak DEVICE`."""

import json
import sys
import time

import torch

SIZES = {"cuda": (4096, 8192, 16384), "cpu": (256, 512)}
ROUNDS = 5
REPEATS = {"cuda": 20, "cpu": 2}


def main() -> None:
    """Print the fastest of several sizes and rounds."""
    device = sys.argv[1]
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"PyTorch {torch.__version__} finds no CUDA")
    kind = torch.float16 if device == "cuda" else torch.float32
    best = max(_measure(device, size, kind) for size in SIZES[device])
    print(json.dumps({"tflops": best / 1e12}))


def _measure(device: str, size: int, kind: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    out = torch.empty_like(left)
    best = 0.0
    for turn in range(ROUNDS + 1):
        _wait(device)
        started = time.perf_counter()
        for _ in range(REPEATS[device]):
            torch.matmul(left, right, out=out)
        _wait(device)
        seconds = time.perf_counter() - started
        if turn:  # the first round chooses kernels
            best = max(best, 2 * size**3 * REPEATS[device] / seconds)
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
