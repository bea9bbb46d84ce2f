"""The profile `milvus` of Compose and the manifests for Kubernetes, compared with the service."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.docker.compose import REPOSITORY, find_compose, run

KUBERNETES = REPOSITORY / "docker/kubernetes"
SETTINGS = {f"NOT3D_{name.upper()}" for name in Settings.model_fields}


def read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


COMPOSE = read(REPOSITORY / "docker-compose.yml")["services"]
KUSTOMIZATION = read(KUBERNETES / "kustomization.yaml")
MANIFESTS = {
    document["kind"]: document for document in (read(KUBERNETES / name) for name in KUSTOMIZATION["resources"])
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def test_compose_knows_the_profile() -> None:
    compose = find_compose()
    if compose is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    config = yaml.safe_load(run([*compose, "--profile", "milvus", "config"]))
    services = config["services"]
    ours = {name: one for name, one in services.items() if one.get("profiles") == ["milvus"]}
    assert ours.keys() == {"not3d-milvus", "milvus", "etcd", "minio"}
    replica = services["not3d-milvus"]
    assert replica["environment"]["NOT3D_GALLERY"] == "milvus://milvus:19530"
    assert replica["build"]["args"] == {"LOCK": "milvus"}
    assert replica["environment"].keys() - {"NOT3D_GALLERY"} == services["not3d"]["environment"].keys()
    # Milvus and its store give every record to anyone who connects.
    assert not [name for name in ours if name != "not3d-milvus" and services[name].get("ports")]
    mounted = {
        str(volume).partition(":")[0] for name in ("milvus", "etcd", "minio") for volume in COMPOSE[name]["volumes"]
    }
    assert mounted <= config["volumes"].keys()


def test_milvus_and_its_dependencies_have_exact_versions_and_health_checks() -> None:
    for name in ("milvus", "etcd", "minio"):
        assert re.search(r":(v\d+\.\d+\.\d+|RELEASE\.\S+)$", COMPOSE[name]["image"]), name
        assert COMPOSE[name]["healthcheck"]["test"][0] == "CMD"
    assert read(KUBERNETES / "milvus.yaml")["spec"]["components"]["image"] == COMPOSE["milvus"]["image"]
    store, user = COMPOSE["minio"]["environment"], COMPOSE["milvus"]["environment"]
    assert store["MINIO_ROOT_PASSWORD"] == user["MINIO_SECRET_ACCESS_KEY"]
    assert store["MINIO_ROOT_USER"] == user["MINIO_ACCESS_KEY_ID"]


def test_every_variable_is_a_setting() -> None:
    given = {name for service in COMPOSE.values() for name in service.get("environment", {})}
    given |= {variable["name"] for variable in CONTAINER["env"]}
    assert {name for name in given if name.startswith("NOT3D_")} - SETTINGS == set()


def test_selectors_ports_and_volumes_of_the_manifests_match() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["Service"]["spec"]["selector"],
        MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    [port] = CONTAINER["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    [served] = MANIFESTS["Service"]["spec"]["ports"]
    assert served["targetPort"] == port["name"]
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert CONTAINER[probe]["httpGet"] == {"path": path, "port": port["name"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    scaled = MANIFESTS["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == MANIFESTS["Deployment"]["metadata"]["name"]
    assert scaled["minReplicas"] > MANIFESTS["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_pods_get_no_variables_that_look_like_settings() -> None:
    """For a Service named not3d, Kubernetes would set NOT3D_PORT to an address, and the service would not start."""
    assert POD["enableServiceLinks"] is False


def test_pods_end_after_the_service_has_drained_and_run_as_the_images_user() -> None:
    variables = {one["name"]: one.get("value") for one in CONTAINER["env"]}
    pause = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > float(variables["NOT3D_DRAIN_SECONDS"]) + pause
    dockerfile = (REPOSITORY / "docker/Dockerfile").read_text()
    context = POD["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile
    # An address may hold a password.
    secrets = {one["name"] for one in CONTAINER["env"] if "secretKeyRef" in one.get("valueFrom", {})}
    assert secrets == {"NOT3D_GALLERY", "NOT3D_API_KEYS"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_all_of_it() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {one["kind"] for one in built} == MANIFESTS.keys()
    assert {one["metadata"]["namespace"] for one in built} == {"not3d"}
    [deployment] = [one for one in built if one["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "not3d:milvus"
