"""What runs on a Ray cluster, without one; `tests.benchmarks.test_bulk` has one."""

import importlib
import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from not3d.client import Client, ClientError
from not3d.enrol.discovery import list_tracklets
from not3d.enrol.enrolment import EnrolOptions, Outcome, Result
from not3d.enrol.ray_enrolment import prepare


@pytest.fixture
def ray_enrolment(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")  # put back as they were
    pytest.importorskip("ray.data")
    prepare("auto")
    module = importlib.import_module("not3d.enrol.ray_enrolment")
    with ExitStack() as clients:
        # The workers' own live as long as their process.
        monkeypatch.setattr(
            module,
            "_client",
            lambda url, key, timeout, ca_file: clients.enter_context(
                Client(url, key, timeout, attempts=1, ca_file=ca_file)
            ),
        )
        yield module


def run_block(module: ModuleType, *arguments: object) -> list[Any]:
    columns = module._enroll_block(*arguments)
    assert list(columns) == ["outcome"]
    return [pickle.loads(outcome) for outcome in columns["outcome"]]


def enroll(module: ModuleType, url: str, folder: Path, patience: float = 5) -> list[Outcome]:
    batch = {"tracklet": np.array([pickle.dumps(item) for item in list_tracklets(folder).items], dtype=object)}
    return run_block(module, batch, [url, url], None, 30.0, None, EnrolOptions(retry_seconds=patience), 2)


def test_a_repeated_block_is_skipped(ray_enrolment: ModuleType, client: Client, people: Path) -> None:
    first = enroll(ray_enrolment, client.url, people)
    again = enroll(ray_enrolment, client.url, people)
    assert {outcome.result for outcome in first} == {Result.ENROLLED}
    assert {(outcome.result, outcome.status) for outcome in again} == {(Result.SKIPPED, 409)}
    assert sorted(outcome.id for outcome in first) == sorted(record.id for record in client.records())


def test_an_unreachable_service_is_returned_as_an_error_text(ray_enrolment: ModuleType, people: Path) -> None:
    batch = {"tracklet": [pickle.dumps(item) for item in list_tracklets(people).items]}
    options = EnrolOptions(retry_seconds=0.1)
    (error,) = run_block(ray_enrolment, batch, ["http://127.0.0.1:9"], None, 5.0, None, options, 1)
    assert isinstance(error, str)
    assert "no service answers" in error


def test_workers_trust_the_authority_that_the_command_names(
    ray_enrolment: ModuleType, people: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    batch = {"tracklet": [pickle.dumps(item) for item in list_tracklets(people).items]}
    with pytest.raises(ClientError, match=r"text\.pem is not a file of certificates"):
        run_block(ray_enrolment, batch, ["https://127.0.0.1:9"], None, 5.0, tmp_path / "text.pem", EnrolOptions(), 1)


@pytest.mark.parametrize(
    ("address", "message"), [("ray://127.0.0.1:9", "ray job submit"), ("127.0.0.1:9", "no Ray cluster answers at")]
)
def test_a_cluster_that_cannot_be_used_is_named(
    ray_enrolment: ModuleType, people: Path, address: str, message: str
) -> None:
    with pytest.raises(ClientError, match=message):
        ray_enrolment.enroll_on_ray(
            address,
            list_tracklets(people).items,
            ["http://127.0.0.1:9"],
            None,
            5.0,
            options=EnrolOptions(),
            workers=1,
            report=print,
        )
