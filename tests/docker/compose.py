"""A Compose project for the tests, with a name, volume, port and image of its own."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

REPOSITORY = Path(__file__).parents[2]
SERVICE = "not3d"
IMAGE = "not3d:test"


def run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> str:
    """Run a program in the repository and return its output; `AssertionError` with its messages if it fails."""
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def find_compose() -> tuple[str, ...] | None:
    """Return the command of Compose v2, otherwise the program docker-compose, otherwise `None`."""
    if _answers("docker", "compose", "version"):
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else None


def why_no_engine() -> str | None:
    """Return what is missing to run containers here, or `None`."""
    if not _answers("docker", "info", "--format", "{{.ServerVersion}}"):
        return "no Docker engine answers (docker info)"
    return None if find_compose() else "neither `docker compose` nor docker-compose is installed"


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _inspect(container: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(run(["docker", "inspect", "--format", "{{json .State}}", container]))
    return state


@dataclass(frozen=True)
class Project:
    """The CPU service of docker-compose.yml with a project name of its own, on a free port of 127.0.0.1."""

    name: str
    command: tuple[str, ...]

    @classmethod
    def create(cls) -> "Project":
        """Return a project with a new name; nothing is started."""
        command = find_compose()
        assert command is not None
        return cls(f"not3d-test-{uuid4().hex[:8]}", command)

    def compose(self, *arguments: str) -> str:
        """Run Compose with no other variables than the image's name and the port."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("NOT3D_", "CONTAINER_"))}
        environment |= {"CONTAINER_IMAGE": IMAGE, "CONTAINER_PUBLISH": "127.0.0.1:"}
        return run((*self.command, "--project-name", self.name, *arguments), environment=environment)

    def start(self) -> str:
        """Start the container, again if it exists, wait until it is healthy, and return its address."""
        self.compose("up", "--detach", SERVICE)
        container = self.container
        until = time.monotonic() + 240
        while (state := _inspect(container))["Health"]["Status"] != "healthy":
            # Compose restarts a container that ended with an error.
            assert state["Status"] == "running", f"the service ended with {state['ExitCode']}:\n{self.logs()}"
            assert time.monotonic() < until, f"not healthy in time: {state['Health']}\n{self.logs()}"
            time.sleep(0.5)
        return "http://" + self.compose("port", SERVICE, "8000")

    @property
    def container(self) -> str:
        """The id of the container, running or not."""
        return self.compose("ps", "--all", "--quiet", SERVICE)

    def signal(self, name: str) -> None:
        """Send a signal to the first process of the container."""
        run(["docker", "kill", "--signal", name, self.container])

    def wait(self) -> int:
        """Wait for the end of the container and return its exit code."""
        return int(run(["docker", "wait", self.container]))

    def logs(self) -> str:
        """Return the last lines of the service's output."""
        return self.compose("logs", "--no-color", "--tail", "50", SERVICE)

    def remove(self) -> None:
        """Remove the container, its network and the gallery's volume."""
        self.compose("down", "--volumes", "--timeout", "5")
