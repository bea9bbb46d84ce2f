import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.frames import FrameError, decode_frame
from not3d.bridges.tracklet import RelativeBox, cut_crop, make_id
from service.ids import ID_PATTERN


def test_both_conventions_of_boxes_give_the_same_box():
    pixels = RelativeBox.from_pixels([320, 90, 640, 360], 1280, 720)
    relative = RelativeBox.from_corner([0.25, 0.125, 0.25, 0.375])
    assert pixels == relative


@pytest.mark.parametrize(
    "edges",
    [(0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (1.1, 0, 1.2, 1), (-0.2, 0, 0, 1), (float("nan"), 0, 1, 1), (0, 0, 1e9, 1)],
)
def test_what_is_no_box_is_refused(edges):
    with pytest.raises(ValueError, match="empty or outside the picture"):
        RelativeBox(*edges)


def picture(width=200, height=100):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.mark.parametrize("size", [(200, 100), (400, 200), (1000, 500)])
def test_a_relative_box_cuts_the_same_part_of_any_resolution(size):
    crop = decode_frame(cut_crop(picture(*size), RelativeBox(0.25, 0, 0.75, 1), margin=0))
    assert crop.shape == (size[1], size[0] // 2, 3)
    assert crop[:, : size[0] // 4 - 8].mean() > 250
    assert crop[:, size[0] // 4 + 8 :].mean() < 5


def test_a_margin_is_added_on_each_side_and_clipped_to_the_picture():
    assert decode_frame(cut_crop(picture(), RelativeBox(0.2, 0.2, 0.4, 0.8), margin=0.1)).shape == (72, 48, 3)
    assert decode_frame(cut_crop(picture(), RelativeBox(0, 0, 0.5, 1), margin=0.1)).shape == (100, 110, 3)


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:60]])
def test_pictures_that_are_none_are_refused(data):
    with pytest.raises(FrameError):
        cut_crop(data, RelativeBox(0, 0, 1, 1))


def test_ids_of_frigate_stay_readable():
    assert make_id("frigate", "back_yard", "1718987129.308396-fqk5ka") == "frigate:back_yard:1718987129.308396-fqk5ka"


@settings(max_examples=50)
@given(st.lists(st.text(max_size=90), min_size=2, max_size=3))
def test_ids_fit_the_service(parts):
    made = make_id(*parts)
    assert re.fullmatch(ID_PATTERN, made)
    assert made not in {".", ".."}


@pytest.mark.parametrize(
    ("one", "other"), [(("a:b", "c"), ("a", "b:c")), (("Tür",), ("T-r",)), (("x" * 200,), ("x" * 201,))]
)
def test_two_tracks_never_share_an_id(one, other):
    assert make_id(*one) != make_id(*other)
