"""The profile `milvus` of Compose and the manifests for Kubernetes, compared with the service."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

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
MILVUS = {document["kind"]: document for document in yaml.safe_load_all((KUBERNETES / "milvus.yaml").read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def pod_labels() -> dict[str, str]:
    labels: dict[str, str] = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    return labels


def test_compose_knows_the_profile() -> None:
    compose = find_compose()
    if compose is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    config = yaml.safe_load(run([*compose, "--profile", "milvus", "config"]))
    services = config["services"]
    ours = {name: one for name, one in services.items() if one.get("profiles") == ["milvus"]}
    assert ours.keys() == {"not3d-milvus", "milvus"}
    replica = services["not3d-milvus"]
    assert replica["environment"]["NOT3D_GALLERY"] == "milvus://root:@milvus:19530"  # refused without the secret
    assert replica["build"]["args"]["LOCK"] == "milvus"
    assert replica["environment"].keys() - {"NOT3D_GALLERY"} == services["not3d"]["environment"].keys()
    assert not services["milvus"].get("ports")
    assert COMPOSE["milvus"]["volumes"][0].partition(":")[0] in config["volumes"]


def test_milvus_has_an_exact_version_and_a_health_check() -> None:
    image = re.fullmatch(r"\$\{CONTAINER_MILVUS_SERVER_IMAGE:-(.+:v\d+\.\d+\.\d+)\}", COMPOSE["milvus"]["image"])
    assert image
    assert COMPOSE["milvus"]["healthcheck"]["test"][0] == "CMD"
    assert MILVUS["Milvus"]["spec"]["components"]["image"] == image[1]


def test_milvus_asks_for_a_password_that_has_no_default() -> None:
    environment = COMPOSE["milvus"]["environment"]
    assert environment["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert environment["COMMON_SECURITY_DEFAULTROOTPASSWORD"] == "${CONTAINER_MILVUS_SECRET:-}"
    assert MILVUS["Milvus"]["spec"]["config"]["common"]["security"]["authorizationEnabled"] is True
    shell, option, script = COMPOSE["milvus"]["command"]
    variables = {"PATH": os.environ["PATH"]}
    for secret in (None, ""):
        given = variables if secret is None else variables | {"COMMON_SECURITY_DEFAULTROOTPASSWORD": secret}
        command = [shell, option, script.replace("$$", "$")]
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "CONTAINER_MILVUS_SECRET is not set: put a line" in done.stderr
    with pytest.raises(ValidationError, match="password is empty"):
        Settings(gallery="milvus://root:@milvus:19530")


def test_the_etcd_of_milvus_listens_inside_its_container_only() -> None:
    mounted = COMPOSE["milvus"]["volumes"][1].split(":")
    assert mounted[1] == COMPOSE["milvus"]["environment"]["ETCD_CONFIG_PATH"]
    for name, value in read(REPOSITORY / mounted[0]).items():
        if "url" in name:
            assert value.startswith("http://127.0.0.1:"), name


def test_only_the_replicas_reach_milvus() -> None:
    assert COMPOSE["milvus"]["networks"] == ["milvus"]
    assert [name for name, one in COMPOSE.items() if "milvus" in one.get("networks", ())] == ["not3d-milvus", "milvus"]
    assert read(REPOSITORY / "docker-compose.yml")["networks"]["milvus"] == {"internal": True}
    policy = MILVUS["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {}
    [inside, replicas] = policy["ingress"]
    assert "ports" not in inside
    assert replicas["ports"] == [{"port": 19530}]
    [source] = replicas["from"]
    assert source["podSelector"]["matchLabels"].items() <= pod_labels().items()
    assert MILVUS["Namespace"]["metadata"]["name"] != KUSTOMIZATION["namespace"]
    assert MILVUS["Milvus"]["metadata"]["namespace"] == MILVUS["Namespace"]["metadata"]["name"]


def test_replicas_reach_milvus_and_dns_only() -> None:
    policy = MANIFESTS["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"]["matchLabels"].items() <= pod_labels().items()
    [clients] = policy["ingress"]
    assert clients["ports"] == [{"port": CONTAINER["ports"][0]["containerPort"]}]
    assert all(source for source in clients["from"])  # an empty selector would be everyone
    [milvus, dns] = policy["egress"]
    name = milvus["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert name == MILVUS["Namespace"]["metadata"]["name"]
    assert {port["port"] for port in dns["ports"]} == {53}
    # kustomize adds its labels to every `matchLabels` of a pod selector.
    assert not [one for rule in policy["egress"] for one in rule["to"] if "matchLabels" in one.get("podSelector", {})]


def test_pods_fulfil_the_strictest_standard_that_their_namespace_asks_for() -> None:
    labels = MANIFESTS["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert MANIFESTS["Namespace"]["metadata"]["name"] == KUSTOMIZATION["namespace"]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = CONTAINER["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert all("emptyDir" in volume for volume in POD["volumes"])
    assert POD["automountServiceAccountToken"] is False
    assert CONTAINER["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}


def test_every_variable_is_a_setting() -> None:
    services = [service for service in COMPOSE.values() if service.get("command", [""])[0] != "bridge"]
    given = {name for service in services for name in service.get("environment", {})}
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
    assert {one["metadata"]["namespace"] for one in built if one["kind"] != "Namespace"} == {"not3d"}
    [deployment] = [one for one in built if one["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "not3d:milvus"
