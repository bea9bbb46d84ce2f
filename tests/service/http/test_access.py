import asyncio
import hashlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from service.http import access
from service.http.access import WrongKeys
from service.telemetry.metrics import Metrics
from tests.service.live import TIMEOUT, Live, run_service, wait_for
from tests.service.problem import check_problem

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module")
def locked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with two keys."""
    with run_service(bundle, tmp_path_factory.mktemp("data"), api_keys=f"{KEY},{OTHER}") as live:
        yield live


GUARDED = [
    ("POST", "/embed"),
    ("POST", "/search"),
    ("GET", "/gallery"),
    ("GET", "/gallery/a"),
    ("PUT", "/gallery/a"),
    ("DELETE", "/gallery/a"),
    ("POST", "/gallery/erase"),
    ("GET", "/gallery/a/thumbnail"),
    ("GET", "/gallery/a/track"),
    ("GET", "/audit"),
    ("GET", "/info"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_key_is_needed(locked: Live, method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FIRST_DELAY", 0)
    answer = locked.client.request(method, path)
    check_problem(answer, 401, "key-missing")
    assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"authorization": "Bearer " + KEY[:-1]}
    check_problem(locked.client.request(method, path, headers=headers), 403, "key-refused")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {OTHER}"},
        {"x-api-key": OTHER},
    ],
)
def test_either_header_is_accepted(locked: Live, headers: dict[str, str]) -> None:
    assert locked.client.get("/info", headers=headers).status_code == 200


def test_another_authorization_scheme_is_not_a_key(locked: Live) -> None:
    check_problem(locked.client.get("/info", headers={"authorization": f"Basic {KEY}"}), 401, "key-missing")


def test_probes_need_no_key(locked: Live) -> None:
    assert locked.client.get("/livez").status_code == 200
    assert locked.client.get("/readyz").status_code == 200


def test_the_audit_log_has_the_fingerprint_of_the_key_and_not_the_key(locked: Live) -> None:
    for headers in ({"authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}):
        locked.client.put("/gallery/a", json={"embedding": [1.0] * 32}, headers=headers)
        locked.client.delete("/gallery/a", headers=headers)
        log = locked.client.get("/audit?limit=1", headers=headers).text
        assert f'"key:{hashlib.sha256(KEY.encode()).hexdigest()[:12]}"' in log
        assert KEY not in log


def test_wrong_keys_are_slowed_down_and_correct_ones_are_not(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty clients behind one address try keys as fast as they can, beside one with a correct key.

    The delays last until the test ends them.
    """
    delayed, may_go_on = list[float](), threading.Event()

    async def delay(seconds: float) -> None:
        delayed.append(seconds)
        while not may_go_on.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(access, "asyncio", SimpleNamespace(sleep=delay))
    with run_service(bundle, tmp_path / "data", wait_until_ready=False, api_keys=KEY) as live:

        def guess(number: int) -> list[int]:
            with httpx.Client(base_url=live.url, timeout=2 * TIMEOUT) as client:
                keys = (f"wrong-key-{number:02}-{attempt:04}" for attempt in range(10))
                return [client.get("/metrics", headers={"x-api-key": key}).status_code for key in keys]

        def refused() -> int:
            answer = live.client.get("/metrics", headers={"x-api-key": KEY})
            assert answer.status_code == 200
            (line,) = re.findall(r'not3d_refused_keys_total\{reason="wrong"\} (\S+)', answer.text)
            return int(float(line))

        with ThreadPoolExecutor(20) as pool:
            guesses = [pool.submit(guess, number) for number in range(20)]
            try:  # twelve clients have sent all of their keys, and eight wait for an answer
                wait_for(lambda: refused() >= 120 + access.MAX_DELAYED_OF_ADDRESS)
                assert len(delayed) == access.MAX_DELAYED_OF_ADDRESS
                assert not min(delayed) < access.FIRST_DELAY
            finally:
                may_go_on.set()
        statuses = [status for each in guesses for status in each.result()]
        assert refused() == 200
    assert set(statuses) == {403, 429}
    assert statuses.count(403) == access.FREE_TRIES + len(delayed)


def test_delays_grow_up_to_a_limit_and_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            slept.append(seconds)
        else:  # a service of another test
            await real(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    wrong_keys = WrongKeys(Metrics())

    async def refuse(times: int) -> None:
        for _ in range(times):
            problem = await wrong_keys.refuse("192.0.2.1")
            assert problem.status == 403

    asyncio.run(refuse(access.FREE_TRIES))
    assert slept == []
    asyncio.run(refuse(8))
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    monkeypatch.setattr(access, "FORGET_SECONDS", 0)
    asyncio.run(refuse(1))
    assert len(slept) == 8


def test_wrong_keys_of_many_addresses_take_bounded_memory() -> None:
    wrong_keys = WrongKeys(Metrics())

    async def refuse() -> None:
        for number in range(10 * access.MAX_ADDRESSES):
            await wrong_keys.refuse(f"10.0.{number // 256}.{number % 256}")

    asyncio.run(refuse())
    assert len(wrong_keys._addresses) == access.MAX_ADDRESSES


def test_a_missing_key_is_counted_but_not_delayed(locked: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for delay in ("FIRST_DELAY", "MAX_DELAY"):
        monkeypatch.setattr(access, delay, 10 * TIMEOUT)
    for _ in range(2 * access.FREE_TRIES):
        check_problem(locked.client.get("/info"), 401, "key-missing")
    text = locked.client.get("/metrics", headers={"x-api-key": KEY}).text
    assert 'not3d_refused_keys_total{reason="missing"}' in text
