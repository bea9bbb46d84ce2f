import cv2
import numpy as np
import pytest

from model.frames import FrameError
from training.batches.clips import FrameCache
from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import read_clips


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0cut"])
def test_file_that_is_no_picture_is_named_wherever_it_is_read(tmp_path, content):
    path = tmp_path / "7.jpg"
    path.write_bytes(content)
    tracklet = Tracklet("p", "c", (path,), "t")
    for read in (
        lambda: read_picture(path, 64, 32),
        lambda: FrameCache(1000).read(path, 64, 32),
        lambda: read_clips(tracklet, frame_size=(64, 32), clip_length=1),
    ):
        with pytest.raises(FrameError, match=r"7\.jpg: ") as failure:
            read()
        assert str(failure.value).startswith(str(path))


def test_picture_has_the_wanted_size(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((10, 9, 3), (1, 2, 3), np.uint8))
    picture = read_picture(tmp_path / "1.png", 64, 32)
    assert picture.shape == (64, 32, 3)
    assert picture[0, 0].tolist() == [3, 2, 1]
