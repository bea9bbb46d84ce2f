"""One data directory, one gallery at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.gallery import GalleryLocked
from tests.service.gallery.samples import open_gallery, record

ROOT = Path(__file__).parents[4]
OPEN = """
import sys
from pathlib import Path
from service.gallery import GalleryLocked
from tests.service.gallery.samples import open_gallery
try:
    open_gallery(Path(sys.argv[1])).close()
except GalleryLocked as error:
    sys.exit(str(error))
"""


def open_elsewhere(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OPEN, str(directory)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    gallery.add(record("a"))
    refused = open_elsewhere(tmp_path)
    assert refused.returncode == 1
    assert f"by process {os.getpid()}" in refused.stderr
    assert "--data-dir" in refused.stderr
    assert gallery.get("a") is not None
    gallery.close()
    accepted = open_elsewhere(tmp_path)
    assert accepted.returncode == 0, accepted.stderr


def test_a_second_gallery_of_the_same_process_is_refused_too(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    with pytest.raises(GalleryLocked):
        open_gallery(tmp_path)
    gallery.close()
    open_gallery(tmp_path).close()
