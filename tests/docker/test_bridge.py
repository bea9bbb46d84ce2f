"""The bridge in Compose and on Kubernetes: its variables are options, and it may do as little as the service."""

import inspect
from typing import Any, get_args

import pytest
import yaml

from not3d.commands.bridge import frigate
from tests.docker.compose import REPOSITORY, find_compose, run

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
BRIDGE: dict[str, Any] = COMPOSE["services"]["bridge-frigate"]
MANIFESTS = list(yaml.safe_load_all((REPOSITORY / "docker/kubernetes/bridge-frigate.yaml").read_text()))
DEPLOYMENT = next(one for one in MANIFESTS if one["kind"] == "Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def variables() -> set[str]:
    """The environment variables of the command's options."""
    found = set()
    for parameter in inspect.signature(frigate).parameters.values():
        for option in get_args(parameter.annotation)[1:]:
            found.add(option.envvar)
    return found


def test_every_variable_is_an_option() -> None:
    assert None not in variables()
    assert set(BRIDGE["environment"]) <= variables()
    assert {one["name"] for one in CONTAINER["env"]} <= variables()


def test_no_secret_has_a_default() -> None:
    secret = {name for name in BRIDGE["environment"] if name.endswith(("KEY", "PASSWORD"))}
    assert secret == {"NOT3D_API_KEY", "NOT3D_BRIDGE_MQTT_PASSWORD", "NOT3D_BRIDGE_FRIGATE_PASSWORD"}
    assert all(BRIDGE["environment"][name] is None for name in secret)
    assert all("valueFrom" in one for one in CONTAINER["env"] if one["name"].endswith(("KEY", "PASSWORD")))


def test_the_bridge_publishes_no_port_and_keeps_its_state() -> None:
    assert "ports" not in BRIDGE
    assert BRIDGE["volumes"] == ["bridge:/data"]
    assert "bridge" in COMPOSE["volumes"]
    assert BRIDGE["environment"]["NOT3D_BRIDGE_STATE"].startswith("/data/")


def test_compose_knows_the_profile() -> None:
    compose = find_compose()
    if compose is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    services = yaml.safe_load(run([*compose, "--profile", "frigate", "config"]))["services"]
    assert {"not3d", "bridge-frigate"} <= services.keys()
    assert services["bridge-frigate"]["image"] == services["not3d"]["image"]


def test_the_pod_is_confined_and_alone() -> None:
    assert (DEPLOYMENT["spec"]["replicas"], DEPLOYMENT["spec"]["strategy"]["type"]) == (1, "Recreate")
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    context = CONTAINER["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert CONTAINER["resources"]["limits"].keys() == {"cpu", "memory", "ephemeral-storage"}


def test_the_pod_reaches_the_service_the_broker_frigate_and_dns_only() -> None:
    policy = next(
        one for one in MANIFESTS if one["metadata"]["name"] == "not3d-bridge-frigate" and "egress" in one["spec"]
    )
    ports = [sorted(port["port"] for port in rule["ports"]) for rule in policy["spec"]["egress"]]
    assert ports == [[8000], [5000, 8883], [53, 53]]
    assert all(rule["to"] for rule in policy["spec"]["egress"])
