from pathlib import Path

import pytest

from benchmarks.serving.load import read_crops
from benchmarks.serving.profile import describe, find_sampler, profile, read_samples
from benchmarks.serving.service import MeasurementSettings, Plans
from model.bundle import BUNDLED, Bundle


def test_shares_come_from_threads_and_parsing_from_the_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    path.write_text(
        "thread (1): MainThread;serve (not3d/serve.py:1);write (python_multipart/multipart.py:9) 3\n"
        "thread (1): MainThread;serve (not3d/serve.py:1);select (selectors.py:9) 9\n"
        "thread (2): decode_0;_decode_jpeg (model/frames.py:9) 8\n"
    )
    text = describe(
        {1: 0.4, 2: 0.6, 3: 2.0, 4: 1.0},
        {1: "MainThread", 2: "decode_0", 3: "batcher-0"},  # 4 is one that Python does not know
        read_samples(path),
    )
    assert "3.00   75.0%  engine" in text
    assert "0.60   15.0%  decoders" in text
    assert "2.5%    of it parsing" in text  # a quarter of the loop's tenth
    assert "Decoding and parsing: 17.5%" in text
    assert "45.0%  select (selectors.py:9)" in text


@pytest.mark.skipif(find_sampler() is None, reason="py-spy is not installed (extra bench)")
def test_real_service_is_profiled(people: Path, tmp_path: Path) -> None:
    settings = MeasurementSettings(rounds=1, seconds=1, engine_seconds=0.1, clients=2, lengths=(4, 9))
    loaded = Bundle.load(BUNDLED)
    crops = read_crops(people, tmp_path)
    plans = Plans.write(crops, tmp_path / "plans", loaded.spec.clip_length, settings.lengths)
    text = profile(loaded, tmp_path / "service", plans, settings)
    for part in ("engine", "event loop", "decoders"):
        assert part in text
