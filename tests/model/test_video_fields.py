"""Fields that are coded as pictures of their own, and DV, which is always interlaced."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from model.video import open_video
from tests.field_pictures import Planes, field_pictures
from tests.videos import Picture, figure, write

MAX_DIFFERENCE = 12.0


def difference(found: object, expected: Picture) -> float:
    assert isinstance(found, np.ndarray), found
    return float(np.abs(found.astype(float) - expected).mean())


def field(picture: Picture, lower: int) -> Planes:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    packed = frame.reformat(format="yuv420p", dst_colorspace=5, dst_color_range=1).to_ndarray()
    height, width = picture.shape[:2]
    chroma = packed[height:].reshape(2, height // 2, width // 2)
    return [np.ascontiguousarray(plane[lower::2]) for plane in (packed[:height], *chroma)]


@pytest.mark.parametrize("bottom_first", [False, True])
@pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv"])
def test_two_packets_of_fields_are_one_frame(suffix: str, bottom_first: bool, tmp_path: Path) -> None:
    """The figure moves between the fields; a frame shows it where the upper field has it."""
    places = range(0, 64, 8)
    fields = [(field(figure(96, 160, at), 0), field(figure(96, 160, at + 24), 1)) for at in places]
    path, packets = tmp_path / f"v.{suffix}", 0
    stream = io.BytesIO(field_pictures(fields, bottom_first=bottom_first))
    with av.open(stream, format="h264") as source, av.open(path, "w") as container:
        track: Any = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.stream, packet.time_base = track, Fraction(1, 50)
                packet.pts = packet.dts = packets
                container.mux(packet)
                packets += 1
    assert packets == 16
    with open_video(path, threads=1) as video:
        frames = list(video.read_all())
    assert [frame.index for frame in frames] == list(range(8))
    assert [frame.time for frame in frames] == pytest.approx([at / 25 for at in range(8)], abs=0.002)
    for frame, at in zip(frames, places, strict=True):
        assert difference(frame.pixels, figure(96, 160, at)) < MAX_DIFFERENCE


@pytest.mark.parametrize("suffix", ["avi", "mov"])
@pytest.mark.parametrize(
    ("height", "rate", "pixel_format"),
    [(576, 25, "yuv420p"), (480, Fraction(30_000, 1001), "yuv411p")],
    ids=["PAL", "NTSC"],
)
def test_dv_gives_the_picture(suffix: str, height: int, rate: Any, pixel_format: str, tmp_path: Path) -> None:
    picture = figure(height, 720)
    path = write(tmp_path / f"v.{suffix}", [picture] * 2, "dvvideo", pixel_format, rate=rate)
    with open_video(path, threads=1) as video:
        frames = list(video.read_all())
    assert len(frames) == 2
    assert all(difference(frame.pixels, picture) < MAX_DIFFERENCE for frame in frames)
