"""The pixels of a video are those that were filmed, whatever codec, pixel format, colours and fields it has."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import Flags

from model.video import VideoError, open_video
from tests.videos import Picture, figure, write

MAX_DIFFERENCE = 12.0
"""Mean absolute difference of the values 0 to 255. Losses, and chroma of half the size, make 2 to 6."""


def read(path: Path) -> list[Picture]:
    with open_video(path, threads=1) as video:
        return [pixels(frame.pixels) for frame in video.read_all()]


def pixels(found: object) -> Picture:
    assert isinstance(found, np.ndarray), found
    return found


def difference(one: Picture, other: Picture) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


def formats(codec: str) -> list[str]:
    return [each.name for each in av.Codec(codec, "w").video_formats or []]


CODECS = [
    ("libx264", "mkv"), ("libx265", "mkv"), ("libsvtav1", "mkv"), ("libvpx-vp9", "mkv"), ("libvpx", "mkv"),
    ("mpeg4", "avi"), ("mpeg2video", "ts"), ("mjpeg", "avi"), ("prores_ks", "mov"), ("ffv1", "mkv"), ("huffyuv", "avi"),
    ("ffvhuff", "avi"), ("utvideo", "avi"), ("magicyuv", "avi"), ("png", "mov"), ("jpeg2000", "mov"), ("qtrle", "mov"),
    ("v210", "mov"), ("v410", "mov"), ("r210", "mov"), ("tiff", "mov"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "suffix"), CODECS)
def test_every_pixel_format_of_a_codec_gives_the_picture_or_names_itself(
    codec: str, suffix: str, tmp_path: Path
) -> None:
    picture, tried = figure(96, 128), 0
    for name in formats(codec):
        if codec == "jpeg2000" and name.startswith("yuv440p1"):  # FFmpeg's own decoder reports errors in these files
            continue
        path = tmp_path / f"{name}.{suffix}"
        quick = {"libx264": {"preset": "ultrafast", "qp": "8"}, "libsvtav1": {"preset": "12"}, "libx265": {
            "preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}}  # fmt: skip
        try:
            write(path, [picture, picture], codec, name, options=quick.get(codec), rate=25)
        except (av.error.FFmpegError, ValueError):  # this build cannot write it, or the container cannot hold it
            continue
        try:
            frames = read(path)
        except VideoError as refusal:
            refused = refusal
        else:
            refused = None
        if refused:
            assert refused.kind == "unsupported", f"{name}: {refused}"
            assert name in refused.reason or "codec" in refused.reason
            continue
        tried += 1
        found = frames[-1]
        grey = name.startswith(("gray", "mono", "ya"))
        expected = picture if not grey else picture @ np.array([0.299, 0.587, 0.114])
        expected = np.broadcast_to(expected[..., None] if grey else expected, picture.shape)
        # One bit, or two or three bits for each colour: dithered.
        coarse = name.startswith(("mono", "rgb8", "bgr8", "rgb4", "bgr4", "pal8"))
        assert np.abs(found.astype(float) - expected).mean() < (130 if coarse else MAX_DIFFERENCE), name
    assert tried


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
def test_colour_tags_are_respected(matrix: int, full_range: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", [figure()] * 2, "ffv1", "yuv444p", matrix=matrix, full_range=full_range)
    assert difference(read(path)[0], figure()) < 2


REFUSED_MATRICES = {
    0: "RGB", 8: "YCgCo", 11: "SMPTE 2085", 12: "derived from the primaries", 13: "constant luminance", 14: "ICtCp",
    15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro",
}  # fmt: skip


@pytest.mark.parametrize("matrix", range(18))
def test_every_tag_of_a_colour_matrix_is_followed_or_named(matrix: int, tmp_path: Path) -> None:
    """libswscale writes 4 and 10 with another matrix, which differs little from theirs."""
    path = write(tmp_path / "v.mkv", [figure()] * 2, "ffv1", "yuv444p", matrix=matrix)
    if matrix not in REFUSED_MATRICES:
        assert difference(read(path)[0], figure()) < (4 if matrix in {4, 10} else 1)
        return
    with pytest.raises(VideoError, match=REFUSED_MATRICES[matrix]) as error:
        read(path)
    assert error.value.kind == "unsupported"


@pytest.mark.parametrize("transfer", sorted({*range(1, 18)} - {16}))
def test_every_tag_of_a_standard_transfer_leaves_the_pixels(transfer: int, tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", [figure()] * 2, "ffv1", "yuv444p", transfer=transfer)
    assert difference(read(path)[0], figure()) < 1


def test_untagged_video_is_bt709_only_if_it_is_high_definition(tmp_path: Path) -> None:
    large = figure(720, 480)
    path = write(tmp_path / "hd.mkv", [large], "ffv1", "yuv444p", matrix=1, prepare=_untag)
    assert difference(read(path)[0], large) < 2
    path = write(tmp_path / "sd.mkv", [figure()], "ffv1", "yuv444p", matrix=5, prepare=_untag)
    assert difference(read(path)[0], figure()) < 2


def _untag(frame: Any) -> Any:
    frame.colorspace = 2
    return frame


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_shown_as_standard(transfer: int, tmp_path: Path) -> None:
    picture = figure()
    path = write(tmp_path / "v.mkv", [_to_hdr(picture, transfer)], "ffv1", "yuv444p10le", matrix=9, transfer=transfer)
    found = read(path)[0]
    assert np.corrcoef(found.ravel(), picture.ravel())[0, 1] > 0.97
    assert difference(found, picture) < 25


def _to_hdr(picture: Picture, transfer: int) -> Picture:
    """Return sRGB pixels as BT.2020 with PQ or HLG, diffuse white at 203 cd/m2 (BT.2100, BT.2087)."""
    signal = picture / 255
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    light = light @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T
    if transfer == 16:
        power = (light * 203 / 10_000) ** (2610 / 16384)
        coded = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        scene = (light * 203 / 1000) ** (1 / 1.2)
        curved = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        coded = np.where(scene <= 1 / 12, np.sqrt(3 * scene), curved)
    return np.clip(np.rint(255 * coded), 0, 255).astype(np.uint8)


FIELDS = [
    ("libx264", "mkv", {"preset": "ultrafast", "qp": "4", "x264-params": "tff=1"}),
    ("libx264", "mp4", {"preset": "ultrafast", "qp": "4", "x264-params": "bff=1"}),
    ("mpeg2video", "ts", {"b": "20M"}),
    ("mpeg4", "avi", {"b": "20M"}),
]


@pytest.mark.parametrize(("codec", "suffix", "options"), FIELDS)
def test_interlaced_frames_show_one_moment(codec: str, suffix: str, options: dict[str, str], tmp_path: Path) -> None:
    """The two fields show the figure at two places; a frame shows it at one of them, without a comb."""
    upper, lower = (figure(96, 160, shift) for shift in (0, 24))
    woven = upper.copy()
    woven[1::2] = lower[1::2]

    def weave(frame: Any) -> Any:
        """Put both fields into one frame, brightness and colours each, and flag it."""
        planes = [_planes(each) for each in (upper, lower)]
        for one, other in zip(*planes, strict=True):
            one[1::2] = other[1::2]
        packed = np.concatenate([plane.ravel() for plane in planes[0]]).reshape(-1, frame.width)
        woven = av.VideoFrame.from_ndarray(packed, format="yuv420p")
        woven.pts, woven.time_base = frame.pts, frame.time_base
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=woven.format, time_base=woven.time_base
        )
        graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
        graph.push(woven)
        return graph.pull()

    flags = Flags.interlaced_dct | Flags.interlaced_me
    path = tmp_path / f"v.{suffix}"
    write(path, [woven] * 3, codec, "yuv420p", options=options, flags=flags, prepare=weave, rate=25)
    found = read(path)[1]
    assert difference(found, upper) < MAX_DIFFERENCE < difference(woven, upper)
    comb = float(np.abs(np.diff(found.astype(float), axis=0)).mean())
    assert difference(found, upper) < 0.6 * difference(woven, upper)
    assert comb < 0.5 * float(np.abs(np.diff(woven.astype(float), axis=0)).mean())


def _planes(picture: Picture) -> list[Picture]:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    packed = frame.reformat(format="yuv420p", dst_colorspace=5, dst_color_range=1).to_ndarray()
    height, width = picture.shape[:2]
    chroma = packed[height:].reshape(2, height // 2, width // 2)
    return [packed[:height].copy(), chroma[0].copy(), chroma[1].copy()]


def test_no_frame_holds_pixels_of_another_video(tmp_path: Path) -> None:
    """The decoder's memory is new for each video: first another person fills it, then a video that was once copied."""
    person, pattern = figure(240, 320), np.full((240, 320, 3), 90, np.uint8)
    write(tmp_path / "person.mkv", [person] * 12)
    flags = Flags.interlaced_dct | Flags.interlaced_me
    options = {"preset": "ultrafast", "x264-params": "tff=1"}
    write(tmp_path / "pattern.mkv", [pattern] * 4, options=options, flags=flags)
    for _ in range(2):
        read(tmp_path / "person.mkv")
        for found in read(tmp_path / "pattern.mkv"):
            assert difference(found, pattern) < 4


TURNS = {
    "none": (1, 0, 0, 1), "90": (0, 1, -1, 0), "180": (-1, 0, 0, -1), "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1), "upside down": (1, 0, 0, -1), "transposed": (0, 1, 1, 0), "anti": (0, -1, -1, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_display_matrix_is_applied(name: str, tmp_path: Path) -> None:
    a, b, c, d = TURNS[name]
    picture = figure(64, 96)
    path = write(tmp_path / "v.mp4", [picture] * 2, options={"qp": "4"})
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # the matrix of the track header, version 0
    matrix = [a, b, 0, c, d, 0, 0, 0, 0x4000]
    for place, value in enumerate(matrix):
        scaled = value * 0x10000 if place < 8 else 0x40000000
        data = data[: at + 4 * place] + scaled.to_bytes(4, "big", signed=True) + data[at + 4 * place + 4 :]
    path.write_bytes(data)
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
    expected = np.empty((shown_y.max() + 1, shown_x.max() + 1, 3), np.uint8)
    expected[shown_y, shown_x] = picture
    assert difference(read(path)[0], expected) < MAX_DIFFERENCE


def test_size_may_change_within_the_limits(tmp_path: Path) -> None:
    small, large = figure(64, 96), figure(96, 160)
    options = {"bf": "0"}
    parts = [write(tmp_path / f"{index}.ts", [each] * 5, options=options) for index, each in enumerate((small, large))]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path) as video:  # where the files meet, packets are missing, so a frame may be refused
        found = [frame.pixels for frame in video.read_all() if isinstance(frame.pixels, np.ndarray)]
    assert len(found) >= 8
    assert {each.shape for each in found} == {small.shape, large.shape}
    assert difference(found[0], small) < MAX_DIFFERENCE
    assert difference(found[-1], large) < MAX_DIFFERENCE
