"""The files in docker/prometheus and docker/grafana, compared with the metrics of the service."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from model.cgroups import memory_limit
from service.telemetry.metrics import Metrics
from tests.docker.compose import REPOSITORY, find_compose, run

PROMETHEUS = REPOSITORY / "docker/prometheus"
GRAFANA = REPOSITORY / "docker/grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards/not3d.json").read_text())
ALERTS = (PROMETHEUS / "alerts.yml").read_text()
METRIC = re.compile(r"\b(?:not3d|process|python)_[a-z0-9_]+")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Title of the panel and the expression, its variables replaced."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")


def exposed() -> set[str]:
    """Every series' name, and what only a container with a limit has."""
    lines = Metrics().exposition().decode().splitlines()
    names = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    # Labels that only a request, an engine or a webhook gives have no series before.
    later = {"not3d_requests_total", "not3d_engine", "not3d_memory_limit_bytes", "not3d_webhook_deliveries_total"}
    later |= {f"not3d_request_seconds_{part}" for part in ("bucket", "sum", "count")}
    return names | later


def test_every_metric_of_dashboard_and_alerts_exists() -> None:
    used = {name for _, query in dashboard_queries() for name in METRIC.findall(query)} | set(METRIC.findall(ALERTS))
    assert len(used) > 20
    assert used - exposed() == set()


def test_assumed_series_exist_after_the_first_event() -> None:
    metrics = Metrics()
    metrics.requests.labels("GET", "/info", "200").inc()
    metrics.seconds.labels("/info").observe(1)
    text = metrics.exposition().decode()
    assert "\nnot3d_requests_total{" in text
    assert "\nnot3d_request_seconds_bucket{" in text
    assert "# TYPE not3d_engine gauge" in text
    assert ("\nnot3d_memory_limit_bytes " in text) == (memory_limit() is not None)


def test_every_metric_is_in_the_operators_table() -> None:
    guide = (REPOSITORY / "docs/operate.md").read_text()
    listed = set(re.findall(r"^\| `((?:not3d|process|python)_[a-z0-9_]+)", guide, re.MULTILINE))
    kinds = re.findall(r"^# TYPE (\S+) ", Metrics().exposition().decode(), re.MULTILINE)
    of_bridges = {name for name in listed if name.startswith("not3d_bridge_")}  # another process answers them
    assert listed - of_bridges == {*kinds, "not3d_memory_limit_bytes"}


def test_every_alert_is_tested_and_documented() -> None:
    names = set(re.findall(r"alert: (\w+)", ALERTS))
    tried = (REPOSITORY / "tests/docker/alerts.test.yml").read_text()
    guide = (REPOSITORY / "docs/operate.md").read_text()
    assert names == set(re.findall(r'alertname="(\w+)"', tried))
    assert names == set(re.findall(r"^\| `(Not3d\w+)`", guide, re.MULTILINE))


def test_panels_have_ids_units_and_the_provisioned_source() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    source = (GRAFANA / "provisioning/datasources/prometheus.yml").read_text()
    uid = re.search(r"uid: (\S+)", source)
    assert uid
    wanted = {"type": "prometheus", "uid": uid[1]}
    for panel in panels():
        assert panel["datasource"] == wanted, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        assert all(target["datasource"] == wanted for target in panel["targets"])
        assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"])
    assert all(variable["datasource"] == wanted for variable in DASHBOARD["templating"]["list"])
    # Grafana 11 and 12 read this layout.
    assert 39 <= DASHBOARD["schemaVersion"] <= 41


def test_panels_lie_side_by_side() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_dashboards_lie_where_grafana_looks_for_them() -> None:
    provider = (GRAFANA / "provisioning/dashboards/not3d.yml").read_text()
    folder = re.search(r"path: (\S+)", provider)
    assert folder
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    assert f"./docker/grafana/dashboards:{folder[1]}:ro" in compose
    assert f"{folder[1]}/not3d.json" in compose


def test_the_key_beside_the_configuration_is_empty() -> None:
    assert not (PROMETHEUS / "api-key").read_bytes()


def test_compose_knows_the_profile_and_publishes_on_the_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = find_compose()
    if compose is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    for name in ("CONTAINER_PUBLISH", "CONTAINER_PROMETHEUS_PUBLISH", "CONTAINER_GRAFANA_PUBLISH"):
        monkeypatch.delenv(name, raising=False)
    every = run([*compose, "--profile", "gpu", "--profile", "monitoring", "config", "--services"]).split()
    others = {"bridge-frigate", "not3d-milvus", "milvus"}  # which Compose 1.29 lists whatever the profile
    assert set(every) - others == {"grafana", "not3d", "not3d-gpu", "prometheus"}
    text = run([*compose, "--profile", "monitoring", "config"])
    assert len(re.findall(r"profiles:\n\s+- monitoring\n", text)) == 2
    published = re.findall(r"127\.0\.0\.1:(\d+):\1|host_ip: 127\.0\.0\.1\n\s+target: (\d+)", text)
    assert {int(one or other) for one, other in published} == {3000, 8000, 9090}
    assert "not3d-api" in text
    assert not re.search(r"(host_ip: |- )['\"]?0\.0\.0\.0", text)
    images = dict(image.partition(":")[::2] for image in re.findall(r"image: (\S+)", text))
    assert images.keys() >= {"not3d", "prom/prometheus", "grafana/grafana"}
    assert all(tag and tag != "latest" for tag in images.values())


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_1_29_accepts_another_key_file() -> None:
    done = subprocess.run(
        ["docker-compose", "--profile", "monitoring", "config"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "CONTAINER_METRICS_KEY_FILE": "/etc/keys/metrics"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "/etc/keys/metrics:/etc/prometheus/api-key:ro" in done.stdout
