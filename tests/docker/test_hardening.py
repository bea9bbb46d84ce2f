"""What every service of Compose must have, and what a container does without a key or with another bundle."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.bundle import Bundle
from tests.bundles import make_bundle
from tests.docker.compose import IMAGE, REPOSITORY, Project, run

CONFIG: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = CONFIG["services"]
KEY = "0123456789abcdef"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True
    assert re.fullmatch(r"\d+:\d+", service["user"])
    assert service["user"] != "0:0" or name == "milvus"
    assert re.search(r"\d+g", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 4096
    assert not [volume for volume in service["volumes"] if "docker.sock" in volume]


@pytest.mark.parametrize("name", SERVICES)
def test_images_of_others_have_an_exact_version(name: str) -> None:
    if "build" not in SERVICES[name]:
        image = re.fullmatch(r"\$\{CONTAINER_\w+_IMAGE:-(.+)\}", SERVICES[name]["image"])  # may be set to a digest
        assert image
        assert re.search(r":v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", image[1])
    else:
        base = SERVICES[name]["build"]["args"]["PYTHON_IMAGE"]
        assert base == "${CONTAINER_PYTHON_IMAGE:-python:3.11-slim-bookworm}"


def test_no_secret_has_a_default() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    defaults = re.findall(r"\$\{(\w*(?:SECRET|PASSWORD|TOKEN|KEYS?))(:?-[^}]*)?\}", text)
    assert {default for _, default in defaults} == {":-"}
    assert SERVICES["not3d"]["environment"]["NOT3D_API_KEYS"] is None


def test_no_service_calls_its_makers() -> None:
    grafana = SERVICES["grafana"]["environment"]
    off = {name for name, value in grafana.items() if value == "false"}
    on = {name for name, value in grafana.items() if value == "true"}
    assert off >= {
        "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
        "GF_ANALYTICS_FEEDBACK_LINKS_ENABLED",
        "GF_NEWS_NEWS_FEED_ENABLED",
        "GF_PLUGINS_PLUGIN_ADMIN_ENABLED",
        "GF_SNAPSHOTS_EXTERNAL_ENABLED",
    }
    assert on >= {
        "GF_PLUGINS_PREINSTALL_DISABLED",
        "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED",
        "GF_SECURITY_DISABLE_GRAVATAR",
    }
    prometheus = yaml.safe_load((REPOSITORY / "docker/prometheus/prometheus.yml").read_text())
    assert prometheus.keys() & {"remote_write", "remote_read", "tracing"} == set()


def run_image(*options: str) -> tuple[int, str]:
    command = ["docker", "run", "--rm", "--network", "none", *options, IMAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "cure"),
    [
        ((), "NOT3D_ALLOW_ANONYMOUS=true"),
        (("NOT3D_API_KEYS=",), "NOT3D_API_KEYS"),
        (("NOT3D_API_KEYS=,",), "give at least one"),
        (("NOT3D_PUBLISHED=0.0.0.0:8000",), "NOT3D_API_KEYS"),
        (("NOT3D_PUBLISHED=8000",), "NOT3D_API_KEYS"),
    ],
)
def test_a_container_that_others_can_reach_does_not_start_without_a_key(
    project: Project, variables: tuple[str, ...], cure: str
) -> None:
    status, output = run_image(*(f"--env={variable}" for variable in variables))
    assert status != 0
    assert cure in re.sub(r"[\s│]+", "", output) or cure in re.sub(r"[\s│]+", " ", output)


def test_another_bundle_is_mounted(project: Project, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    bundle = make_bundle(tmp_path / "bundle")
    compose = (*project.command, "--project-name", project.name)
    variables = {"PATH": "/usr/bin:/bin:/usr/local/bin", "CONTAINER_IMAGE": IMAGE, "CONTAINER_BUNDLE": str(bundle)}
    code = "from service.settings import Settings; from model.bundle import Bundle; "
    code += "print(Bundle.load(Settings().bundle).embedding_space)"
    command = [*compose, "run", "--rm", "--no-deps", "--entrypoint", "python", "not3d", "-c", code]
    shown = run(command, environment=variables)
    assert shown.split()[-1] == Bundle.load(bundle).embedding_space


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_1_29_reads_all_profiles_without_any_variable() -> None:
    profiles = [part for name in ("milvus", "gpu", "monitoring", "frigate") for part in ("--profile", name)]
    command = ["docker-compose", *profiles, "config"]
    config = yaml.safe_load(run(command, environment={"PATH": "/usr/bin:/bin:/usr/local/bin"}))
    assert config["services"].keys() == SERVICES.keys()
