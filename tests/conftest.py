"""Fixtures for the tests of several packages."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.leftovers import end_with_this_process

ROOT = Path(__file__).parent

# Tables are as wide in a worker of pytest-xdist, which has no terminal, as in one.
os.environ["COLUMNS"] = "120"

# The same examples each time, so that a change is judged by its own faults, and no limit of time, which other work
# would exceed. `HYPOTHESIS_PROFILE=explore` draws new ones.
hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", parent=hypothesis.settings.get_profile("fixed"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# A shell ignores Ctrl-C for its background processes, and the programs that the tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


end_with_this_process()


class ByFile(LoadScopeScheduling):
    """Gives all tests of a file, and all that share a Docker engine, to one worker, so that fixtures are made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "docker" if file.startswith("tests/docker/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Not xdist's `loadgroup`: its version 3.8 writes groups where pytest 9.2 does not look for them."""
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let a test draw the same weights whichever tests ran before it in this process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def keeps_its_priority() -> Iterator[None]:
    """A test must not leave a real-time priority behind (`tests.videos.write` says which library would)."""
    before = os.sched_getscheduler(0)
    yield
    after = os.sched_getscheduler(0)
    if after != before:
        os.sched_setscheduler(0, before, os.sched_param(0))
    assert after == before


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real footage for tests, never committed: `NOT3D_SHARED_DATA`, otherwise `shared/data` next to the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NOT3D_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs real footage, which is not in the repository: no {folder} (set NOT3D_SHARED_DATA)")
    return folder
