"""PyTorch eager fp32 behind FastAPI, the simplest way to serve the network: `python -m benchmarks.peers.eager`.

A plain `def` route runs in FastAPI's thread pool: requests decode and compute in parallel, each with PyTorch's own
threads.
"""

import argparse
from pathlib import Path
from typing import Annotated

import cv2
import uvicorn
from fastapi import FastAPI, File, UploadFile

from benchmarks.full_size import eager_network
from benchmarks.peers import answer_of, clips_of
from model.bundle import Bundle


def create_app(bundle: Bundle) -> FastAPI:
    app = FastAPI()
    embed = eager_network(bundle)

    @app.post("/embed")
    def embed_tracklet(frames: Annotated[list[UploadFile], File()]) -> dict[str, object]:
        clips = clips_of([upload.file.read() for upload in frames], bundle.spec)
        return answer_of(len(frames), embed(clips), bundle.spec)

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    uvicorn.run(create_app(Bundle.load(options.bundle)), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
