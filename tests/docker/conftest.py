import os
from collections.abc import Iterator

import pytest

from tests.docker.compose import Project, why_no_engine


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The CPU image, built by Compose and tagged not3d:test. It is kept, so that the next run reuses its layers."""
    reason = why_no_engine()
    if reason is not None and os.environ.get("REQUIRE_DOCKER"):
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    project = Project.create()
    project.compose("build", "not3d")
    try:
        yield project
    finally:
        project.remove()
