"""A real Prometheus with the committed rules, fed by a real service that asks for a key."""

import json
import os
import re
import shutil
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.cgroups import memory_limit
from not3d.ports import free_port
from tests.bundles import make_bundle
from tests.docker.compose import REPOSITORY, run
from tests.docker.test_monitoring import ALERTS, METRIC, PROMETHEUS, dashboard_queries
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import form, tracklet

KEY = "a-key-for-prometheus-and-tests"


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    missing = [program for program in ("promtool", "prometheus") if shutil.which(program) is None]
    if missing and os.environ.get("REQUIRE_PROMETHEUS"):
        pytest.fail(f"not installed: {' and '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {' and '.join(missing)} (Debian's package prometheus has both)")


def test_promtool_accepts_the_configuration() -> None:
    assert "SUCCESS" in run(["promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")])
    assert "SUCCESS" in run(["promtool", "check", "rules", "--lint-fatal", str(PROMETHEUS / "alerts.yml")])


def test_each_alert_fires_only_when_expected() -> None:
    assert "SUCCESS" in run(["promtool", "test", "rules", "tests/docker/alerts.test.yml"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    bundle = make_bundle(tmp_path_factory.mktemp("bundle"))
    webhooks = tmp_path_factory.mktemp("webhooks") / "webhooks.json"
    webhook = {"name": "desk", "url": "https://hooks.example.org/", "secret": f"whsec_{b64encode(bytes(32)).decode()}"}
    webhooks.write_text(json.dumps({"webhooks": [webhook]}))
    options: dict[str, Any] = {"webhooks": webhooks, "webhook_hosts": "hooks.example.org", "api_keys": KEY}
    with run_service(bundle, tmp_path_factory.mktemp("data"), wait_until_ready=False, **options) as live:
        live.client.headers["authorization"] = f"Bearer {KEY}"
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        yield live


@pytest.fixture(scope="module")
def api(service: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus's API, once it has seen several scrapes before and after some requests."""
    folder = tmp_path_factory.mktemp("prometheus")
    text = (PROMETHEUS / "prometheus.yml").read_text()
    assert "not3d-api:8000" in text
    text = text.replace("not3d-api:8000", service.url.removeprefix("http://")).replace(
        "_interval: 10s", "_interval: 200ms"
    )
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    (folder / "api-key").write_text(f"{KEY}\n")
    port = free_port()
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as client:
            wait_for(lambda: _answers(client, process, folder / "log"))
            wait_for(lambda: _value(client, 'count_over_time(not3d_ready{job="not3d"}[1m])') >= 2)
            _use(service)
            seen = _value(client, 'count_over_time(not3d_ready{job="not3d"}[1m])')
            wait_for(lambda: _value(client, 'count_over_time(not3d_ready{job="not3d"}[1m])') >= seen + 3)
            yield client
    finally:
        process.terminate()
        process.wait(60)


def _answers(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return client.get("/query", params={"query": "1"}).status_code == 200
    except httpx.TransportError:
        return False


def _query(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    data = answer.json()["data"]
    assert data["resultType"] == "vector"
    result: list[dict[str, Any]] = data["result"]
    return result


def _value(client: httpx.Client, query: str) -> float:
    return next((float(series["value"][1]) for series in _query(client, query)), 0.0)


def _use(service: Live) -> None:
    for number in range(3):
        data = {"id": f"p{number}", "camera_id": "1"}
        assert service.client.post("/embed", files=form(tracklet(number)), data=data).status_code == 201
        search = {"id": f"p{number}", "rerank": True}
        assert service.client.post("/search", json=search).status_code == 200
        time.sleep(0.3)  # each in another scrape, so that there is a rate


def test_it_scrapes_with_its_key(api: httpx.Client) -> None:
    (target,) = api.get("/targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert _value(api, 'up{job="not3d"}') == 1


def test_every_panel_has_data(api: httpx.Client) -> None:
    empty = [
        f"{title}: {query}"
        for title, query in dashboard_queries()
        if not any(series["value"][1] != "NaN" for series in _query(api, query))
        and ("not3d_memory_limit_bytes" not in query or memory_limit() is not None)
    ]
    assert not empty


def test_the_dashboard_shows_the_stages_that_worked(api: httpx.Client) -> None:
    query = dict(dashboard_queries())["Where the time goes"]
    spent = {series["metric"]["stage"]: float(series["value"][1]) for series in _query(api, query)}
    assert all(spent[stage] > 0 for stage in ("read", "parse", "decode", "queue", "infer", "index", "rerank")), spent


def test_every_rule_is_evaluated_and_none_fires(api: httpx.Client) -> None:
    (group,) = api.get("/rules").json()["data"]["groups"]
    assert len(group["rules"]) == ALERTS.count("- alert:")
    for rule in group["rules"]:
        assert (rule["health"], rule.get("lastError", ""), rule["alerts"]) == ("ok", "", []), rule["name"]


def test_every_metric_of_the_alerts_has_data(api: httpx.Client) -> None:
    names = set(METRIC.findall(re.sub(r"^ *#.*", "", ALERTS, flags=re.MULTILINE)))
    if memory_limit() is None:
        names.discard("not3d_memory_limit_bytes")
    assert not [name for name in sorted(names) if not _query(api, name)]


def test_the_dashboard_lists_the_instances(api: httpx.Client, service: Live) -> None:
    dashboard = json.loads((REPOSITORY / "docker/grafana/dashboards/not3d.json").read_text())
    (variable,) = dashboard["templating"]["list"]
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert match
    values = api.get(f"/label/{match[2]}/values", params={"match[]": match[1]}).json()["data"]
    assert values == [service.url.removeprefix("http://")]


def test_metrics_without_the_key_are_401(service: Live) -> None:
    assert httpx.get(f"{service.url}/metrics", timeout=30).status_code == 401
