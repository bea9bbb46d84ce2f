"""PyTorch eager fp32 behind FastAPI, the simplest way to serve the network: `python -m benchmarks.peers.eager`.

A plain `def` route runs in FastAPI's thread pool: requests decode and compute in parallel, each with PyTorch's own
threads. With `--lock` one request computes at a time, which saves memory, cache misses and thread switches.
"""

import argparse
import contextlib
import threading
from pathlib import Path
from typing import Annotated

import cv2
import torch
import uvicorn
from fastapi import FastAPI, File, UploadFile

from benchmarks.full_size import eager_network
from benchmarks.peers import answer_of, clips_of
from model.bundle import Bundle


def create_app(bundle: Bundle, *, lock: bool) -> FastAPI:
    app = FastAPI()
    embed = eager_network(bundle)
    turn = threading.Lock() if lock else contextlib.nullcontext()

    @app.post("/embed")
    def embed_tracklet(frames: Annotated[list[UploadFile], File()]) -> dict[str, object]:
        clips = clips_of([upload.file.read() for upload in frames], bundle.spec)
        with turn:
            rows = embed(clips)
        return answer_of(len(frames), rows)

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lock", action="store_true", help="one request computes at a time")
    parser.add_argument("--torch-threads", type=int, help="default: PyTorch's own")
    options = parser.parse_args()
    if options.torch_threads:
        torch.set_num_threads(options.torch_threads)
    cv2.setNumThreads(1)
    app = create_app(Bundle.load(options.bundle), lock=options.lock)
    uvicorn.run(app, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
