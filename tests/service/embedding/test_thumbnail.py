import cv2
import numpy as np
import pytest

from service.embedding.thumbnail import EvenFrames, encode_thumbnail


def frame(height: int, width: int, colour: tuple[int, int, int]) -> "np.typing.NDArray[np.uint8]":
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 128), (128, 64)), ((64, 32), (64, 32)), ((100, 300), (43, 128)), ((1, 999), (1, 128))]
)
def test_thumbnail_is_small_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = encode_thumbnail(frame(*size, (10, 20, 30)))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[:2] == expected
    assert data.startswith(b"\xff\xd8\xff")


def test_colours_keep_their_order() -> None:
    data = encode_thumbnail(frame(256, 128, (200, 30, 60)))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), (200, 30, 60), atol=4)


@pytest.mark.parametrize("count", [*range(1, 40), 100, 1000, 1999])
def test_middle_of_any_number_of_frames(count: int) -> None:
    middle = EvenFrames(1)
    for number in range(count):
        middle.add(np.full((1, 1, 3), (number // 256, number % 256, 0), np.uint8))
        assert len(middle._held) <= 16
    (chosen_frame,) = middle.choose()
    high, low, _ = chosen_frame[0, 0].tolist()
    chosen = 256 * high + low
    assert chosen == count // 2 if count <= 16 else abs(chosen - count // 2) <= count / 8
