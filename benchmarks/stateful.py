"""Call the service in sequences that its OpenAPI document allows: `python -m benchmarks.stateful`.

Schemathesis draws the calls from `docs/openapi.json` and follows ids from one answer to the next call. It checks that
each status, content type and body is the documented one, that no call is an error of the server or takes `MAX_SECONDS`,
that what was made can be read, and that what was deleted is gone. For each failure it prints a command that repeats it.
"""

import argparse
import base64
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import schemathesis

from benchmarks.fuzz.footage import picture_seeds
from benchmarks.process import running_service
from model.bundle import BUNDLED

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "openapi.json"
MAX_SECONDS: Final = 2.0
CHECKS: Final = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "use_after_free", "ensure_resource_availability",
)  # fmt: skip
STREAM: Final = "/alerts/stream"
"""Its answer does not end."""
DIMENSION: Final = "FUZZ_DIMENSION"
"""The variable in which the hook below, which Schemathesis imports, finds the dimension of embeddings."""
PICTURES: Final = tuple(picture_seeds().values())[:11]


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Replace drawn footage and vectors, of which hardly one would be usable."""
    if isinstance(body, dict):
        frames, vector = body.get("frames"), body.get("embedding")
        if isinstance(frames, list) and frames:
            chosen = [PICTURES[len(repr(frame)) % len(PICTURES)] for frame in frames[:4]]
            binary = isinstance(frames[0], bytes)
            body["frames"] = chosen if binary else [base64.b64encode(picture).decode() for picture in chosen]
        if isinstance(vector, list) and vector:
            body["embedding"] = [float(len(repr(vector)) + index) for index in range(int(os.environ[DIMENSION]))]
    return body


def call_in_sequences(url: str, dimension: int, *, examples: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Let Schemathesis call a service, whose records it may erase, and return its report.

    Args:
        url: of the service
        dimension: of its embeddings
        examples: number of sequences
        seed: of all choices
    """
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [
                *(*command, "run", str(DOCUMENT), "--url", url, "--phases", "stateful", "--checks", ",".join(CHECKS)),
                *("--max-examples", str(examples), "--seed", str(seed), "--max-response-time", str(MAX_SECONDS)),
                *("--generation-database", "none", "--no-color", "--suppress-health-check", "all"),
                *("--warnings", "off", "--no-shrink", "--exclude-path", STREAM),
            ],
            cwd=folder,
            env=os.environ
            | {"SCHEMATHESIS_HOOKS": __name__, DIMENSION: str(dimension), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=3000, help="number of sequences")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="not3d-stateful-") as folder,
        running_service(options.bundle, Path(folder), "--engine", "onnxruntime") as server,
    ):
        dimension = server.get("/info")["model"]["dimension"]
        done = call_in_sequences(server.url, dimension, examples=options.examples, seed=options.seed)
        print(done.stdout)
        if server.get("/readyz")["status"] != "ready":
            sys.exit("the service is not ready any more")
    sys.exit(done.returncode)


if __name__ == "__main__":
    from benchmarks.stateful import main as _main  # Schemathesis imports this module by its name

    _main()
