"""A real service in a process of its own, and people for it to know."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.bundle import Bundle
from not3d.cli import main
from not3d.client import Client
from not3d.demo import running_service
from tests.bundles import make_bundle
from tests.calibrations import make_calibration
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import Tracklet

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a running service; its gallery is shared by the whole session."""
    with running_service(bundle, tmp_path_factory.mktemp("service"), "--engine", "onnxruntime") as client:
        yield client


@pytest.fixture(scope="session")
def calibrated(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service with a site's own calibration; its gallery is shared by the whole session."""
    folder = tmp_path_factory.mktemp("calibrated")
    calibration = make_calibration(embedding_space=Bundle.load(bundle).embedding_space)
    (folder / "site.json").write_text(calibration.to_json())
    options = ("--engine", "onnxruntime", "--calibration", str(folder / "site.json"), "--prior", "0.3")
    with running_service(bundle, folder, *options) as client:
        yield client


@pytest.fixture
def client(service: Client) -> Client:
    """A client of a service whose gallery is empty."""
    for record in list(service.records()):
        service.delete(record.id)
    return service


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people: 3 of them at 2 cameras, person/camera/tracklet."""
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=3, cameras=2, frames=5, seed=3, size=(128, 64))
    return folder


@pytest.fixture(scope="session")
def tracklet(people: Path) -> Tracklet:
    frames = tuple(sorted((people / "0001" / "c1" / "t1").glob("*.jpg")))
    return Tracklet("0001", "c1", frames, "0001-c1-t1")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line as a user would; gives its status, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["not3d", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), output.out, output.err

    return call
