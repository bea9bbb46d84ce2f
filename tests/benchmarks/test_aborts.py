from pathlib import Path

from benchmarks.aborts import GAUGES, requests, run
from benchmarks.process import running_service
from model.bundle import Bundle
from tests.bundles import make_bundle


def test_aborted_requests_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    """The real server; `python -m benchmarks.aborts` sends 10 000."""
    bundle = make_bundle(tmp_path / "bundle")
    sent = requests(Bundle.load(bundle).spec.dimension, tmp_path)
    with running_service(bundle, tmp_path / "data", "--engine", "onnxruntime", "--threads", "1") as server:
        outcome = run(server.port, sent, 400)
        log = (tmp_path / "data" / "service.log").read_text()
    assert outcome.aborted == 400
    assert outcome.gauges == dict.fromkeys(GAUGES, 0)
    assert outcome.after < 5 * outcome.before + 0.2
    assert "exception" not in log
