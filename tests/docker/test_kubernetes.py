"""The manifests as kubectl builds them."""

import shutil
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.docker.compose import REPOSITORY, run

FOLDER = REPOSITORY / "docker"
PATCH = yaml.safe_load(
    yaml.safe_load((FOLDER / "kubernetes-vectors-only/kustomization.yaml").read_text())["patches"][0]["patch"]
)
DEPLOYMENT = yaml.safe_load((FOLDER / "kubernetes/deployment.yaml").read_text())


def containers(deployment: dict[str, Any]) -> Any:
    return deployment["spec"]["template"]["spec"]["containers"]


def test_replicas_without_a_model_have_a_space_and_a_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    [patch], [container] = containers(PATCH), containers(DEPLOYMENT)
    assert (PATCH["metadata"]["name"], patch["name"]) == (DEPLOYMENT["metadata"]["name"], container["name"])
    for variable in patch["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = Settings()
    assert (settings.vectors_only, settings.space, settings.dimension) == (True, "my-reid-v1", 512)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_builds_replicas_without_a_model() -> None:
    built, plain = (
        list(yaml.safe_load_all(run(["kubectl", "kustomize", str(FOLDER / name)])))
        for name in ("kubernetes-vectors-only", "kubernetes")
    )
    for patched, original in zip(built, plain, strict=True):
        if original["kind"] == "Deployment":
            [container], [before] = containers(patched), containers(original)
            assert container["env"] == [*containers(PATCH)[0]["env"], *before["env"]]
            before |= {"env": container["env"], "resources": container["resources"]}
        assert patched == original
