"""ONNX Runtime fp32 behind LitServe: `python -m benchmarks.peers.lit`; needs the extra `bench`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.datastructures import FormData, UploadFile

from benchmarks.peers import Embed, answer_of, clips_of
from model.bundle import Bundle
from model.engines.onnx_runtime import OnnxRuntimeEngine


@dataclass(frozen=True, eq=False)
class Tracklet:
    """A tracklet's clips `[C, T, H, W, 3]`, or their embeddings `[C, D]`, and its number of frames."""

    frames: int
    values: NDArray[Any]


class TrackletAPI(litserve.LitAPI):  # type: ignore[misc]
    """The route; with batching, the clips of LitServe's batch form one engine call."""

    def __init__(self, bundle: Path, threads: int, batch: int, timeout: float) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=timeout, api_path="/embed")
        self._folder, self._threads, self._batched = bundle, threads, batch > 1
        self._embed: Embed

    def setup(self, device: str) -> None:  # noqa: ARG002
        cv2.setNumThreads(1)
        self._bundle = Bundle.load(self._folder)
        self._embed = OnnxRuntimeEngine(self._bundle, device="cpu", threads=self._threads).embed

    def decode_request(self, request: Request) -> Tracklet:
        """Return the form's crops as clips. LitServe passes the parsed form and takes the route from the annotation."""
        uploads = cast(list[UploadFile], cast(FormData, request).getlist("frames"))
        return Tracklet(len(uploads), clips_of([upload.file.read() for upload in uploads], self._bundle.spec))

    def batch(self, inputs: Sequence[Tracklet]) -> list[Tracklet]:
        return list(inputs)

    def predict(self, tracklets: Tracklet | list[Tracklet]) -> Tracklet | list[Tracklet]:
        if isinstance(tracklets, Tracklet):
            return Tracklet(tracklets.frames, self._embed(tracklets.values))
        rows = self._embed(np.concatenate([tracklet.values for tracklet in tracklets]))
        ends = np.cumsum([len(tracklet.values) for tracklet in tracklets])[:-1]
        return [Tracklet(a.frames, part) for a, part in zip(tracklets, np.split(rows, ends), strict=True)]

    def unbatch(self, output: list[Tracklet]) -> list[Tracklet]:
        return output

    def encode_response(self, output: Tracklet) -> dict[str, object]:
        return answer_of(output.frames, output.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with the model")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime in each worker")
    parser.add_argument("--batch", type=int, default=1, help="most requests in one call")
    parser.add_argument("--batch-timeout", type=float, default=0.01, help="seconds to wait for more requests")
    options = parser.parse_args()
    api = TrackletAPI(options.bundle, options.threads, options.batch, options.batch_timeout if options.batch > 1 else 0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=False)
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
