"""ONNX Runtime fp32 behind LitServe: `python -m benchmarks.peers.lit`; needs the extra `bench`."""

import argparse
from pathlib import Path
from typing import cast

import cv2
import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.datastructures import FormData, UploadFile

from benchmarks.peers import answer_of, clips_of
from model.bundle import Bundle
from model.engines.onnx_runtime import OnnxRuntimeEngine

Tracklet = tuple[int, NDArray[np.uint8]]
"""Number of frames and clips `[C, T, H, W, 3]`."""


class TrackletAPI(litserve.LitAPI):  # type: ignore[misc]
    """The route; a request is one engine call."""

    def __init__(self, bundle: Path, threads: int) -> None:
        super().__init__(api_path="/embed")
        self._folder, self._threads = bundle, threads

    def setup(self, device: str) -> None:  # noqa: ARG002
        cv2.setNumThreads(1)
        self._bundle = Bundle.load(self._folder)
        self._engine = OnnxRuntimeEngine(self._bundle, device="cpu", threads=self._threads)

    def decode_request(self, request: Request) -> Tracklet:
        """Return the form's crops as clips. LitServe passes the parsed form and takes the route from the annotation."""
        uploads = cast(list[UploadFile], cast(FormData, request).getlist("frames"))
        return len(uploads), clips_of([upload.file.read() for upload in uploads], self._bundle.spec)

    def predict(self, tracklet: Tracklet) -> dict[str, object]:
        frames, clips = tracklet
        return answer_of(frames, self._engine.embed(clips), self._bundle.spec)

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime")
    options = parser.parse_args()
    server = litserve.LitServer(TrackletAPI(options.bundle, options.threads), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
