"""The service when its data directory is taken away: no lost acknowledged write, and readiness says why."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.gallery import DiskFull
from service.gallery.embedded.storage import Storage
from tests.service.live import Live, run_service, wait_for
from tests.service.problem import check_problem

BODY = {"embedding": [1.0] * 32}


def put_all(live: Live, names: list[str]) -> dict[str, int]:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda name: live.client.put(f"/gallery/{name}", json=BODY), names)
        return {name: answer.status_code for name, answer in zip(names, answers, strict=True)}


def readiness(live: Live) -> httpx.Response:
    return live.client.get("/readyz")


def test_a_replaced_data_directory_turns_writes_off_until_it_is_back(bundle: Path, tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    with run_service(bundle, data) as live:
        acknowledged = put_all(live, [f"a{number}" for number in range(10)])
        assert set(acknowledged.values()) == {201}
        assert live.client.post("/search", json=BODY).status_code == 200
        data.rename(away)
        data.mkdir()
        assert set(put_all(live, [f"b{number}" for number in range(50)]).values()) == {503}
        check_problem(live.client.delete("/gallery/a1"), 503, "gallery-unavailable")
        wait_for(lambda: readiness(live).status_code == 503)
        problem = check_problem(readiness(live), 503, "gallery-unavailable")
        assert "restart the service" in problem["detail"]
        assert "not3d_ready 0.0" in live.client.get("/metrics").text
        assert live.client.get("/livez").status_code == 200  # a restart would open an empty gallery
        # A search cannot be recorded, so it is not answered; what is open can be read.
        check_problem(live.client.post("/search", json=BODY), 503, "gallery-unavailable")
        assert len(live.client.get("/gallery").json()["items"]) == 10
        data.rmdir()
        away.rename(data)
        wait_for(lambda: readiness(live).status_code == 200)
        assert "not3d_ready 1.0" in live.client.get("/metrics").text
        acknowledged |= put_all(live, [f"c{number}" for number in range(10)])
        assert set(acknowledged.values()) == {201}
    with run_service(bundle, data) as live:
        listed = {item["id"] for item in live.client.get("/gallery").json()["items"]}
        assert listed == acknowledged.keys()


def test_a_full_disk_answers_507_and_readiness_says_so(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_service(bundle, tmp_path / "data") as live:
        connection = live.service.gallery._gallery._writer._connection  # type: ignore[attr-defined]
        pages = connection.execute("PRAGMA page_count").fetchone()[0] + 10
        connection.execute(f"PRAGMA max_page_count = {pages}")
        full = True

        def probe(_: Storage) -> None:
            if full:
                raise DiskFull("no space left on the disk")

        monkeypatch.setattr(Storage, "_probe", probe)
        body = BODY | {"metadata": {"text": "x" * 15_000}}
        statuses = [live.client.put(f"/gallery/r{number}", json=body).status_code for number in range(20)]
        assert set(statuses) == {201, 507}
        wait_for(lambda: readiness(live).status_code == 503)
        assert "no space left" in readiness(live).json()["detail"]
        assert live.client.post("/search", json=BODY).status_code == 200
        full = False
        wait_for(lambda: readiness(live).status_code == 200)
