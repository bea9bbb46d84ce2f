import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.compose import Project, why_no_engine

BUILD_SECONDS = 1800
"""The first of these tests also waits for the image, whose packages are downloaded and compiled."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the image the time of its build. The hook gets all tests of a run."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The CPU image, built by Compose and tagged not3d:test. It is kept, so that the next run reuses its layers."""
    reason = why_no_engine()
    if reason is not None and os.environ.get("REQUIRE_DOCKER"):
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    project = Project.create()
    try:
        project.compose("build", "not3d")
    except AssertionError:  # a package registry may not answer once
        project.compose("build", "not3d")
    try:
        yield project
    finally:
        project.remove()
