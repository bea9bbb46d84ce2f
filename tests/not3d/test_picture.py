"""The ranked picture."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from not3d import picture
from not3d.enrol.footage import pick_evenly
from not3d.picture import Panel, draw_ranked, write_picture

GREEN, RED, GREY = (26, 152, 80), (205, 49, 49), (158, 164, 172)


def frames(count: int, level: int = 90) -> list[NDArray[np.uint8]]:
    return [np.full((256, 128, 3), level, dtype=np.uint8)] * count


def border(image: NDArray[np.uint8], place: int) -> tuple[int, ...]:
    """The colour of the border of the hit at this place."""
    left = picture._MARGIN + picture._PANEL_WIDTH + picture._QUERY_GAP + place * (picture._PANEL_WIDTH + picture._GAP)
    return tuple(int(value) for value in image[picture._TOP + 2, left + 2])


def test_the_colour_of_the_border_says_whether_the_person_is_right() -> None:
    hits = [Panel(frames(4), f"hit-{truth}", "c1", 0.5, truth) for truth in (True, False, None)]
    image = draw_ranked(Panel(frames(4), "query"), hits, title="Title")
    assert [border(image, place) for place in range(3)] == [GREEN, RED, GREY]


def test_the_legend_explains_only_the_colours_in_use() -> None:
    def bottom(*truths: bool | None) -> NDArray[np.uint8]:
        hits = [Panel(frames(1), "hit", None, 0.5, truth) for truth in truths]
        return draw_ranked(Panel(frames(1), "query"), hits, title="Title")[-50:]

    def has(strip: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
        return bool((strip == colour).all(axis=2).any())

    assert [has(bottom(True, True), colour) for colour in (GREEN, RED, GREY)] == [True, False, False]
    assert [has(bottom(True, False, None), colour) for colour in (GREEN, RED, GREY)] == [True, True, True]


def test_frames_keep_their_aspect_ratio() -> None:
    wide = [np.full((50, 200, 3), 10, dtype=np.uint8)]
    image = draw_ranked(Panel(wide, "query"), [], title="Title")
    left, top = picture._MARGIN + picture._BORDER, picture._TOP + picture._BORDER
    cell = image[top : top + picture._CELL_HEIGHT, left : left + picture._CELL_WIDTH]
    dark = (cell < 100).all(axis=2)
    assert dark.any(axis=0).sum() == picture._CELL_WIDTH
    assert dark.any(axis=1).sum() == picture._CELL_WIDTH // 4


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_any_number_of_frames_and_hits_can_be_drawn(count: int) -> None:
    hits = [Panel(frames(count), "hit", "c1", 0.5)] * count
    image = draw_ranked(Panel(frames(count), "query"), hits, title="Title", subtitle="Subtitle")
    assert image.dtype == np.uint8
    assert image.shape[1] > image.shape[0] or count <= 1
    assert (image[:4] == 255).all()
    assert (image[:, -4:] == 255).all()


def test_long_ids_stay_within_their_panel() -> None:
    long = Panel(
        frames(1), "building-7/floor-3:" + "x" * 100 + ":track-000123", "an extraordinarily long camera name", 0.5
    )
    image = draw_ranked(long, [long, long], title="T" * 500, subtitle="s" * 500)
    gap = picture._MARGIN + 2 * picture._PANEL_WIDTH + picture._QUERY_GAP
    assert (image[picture._TOP :, gap + 2 : gap + picture._GAP - 2][: -picture._LEGEND] == 255).all()
    assert (image[:, -picture._MARGIN + 4 :] == 255).all()


def test_a_probability_is_drawn_as_a_probable_appearance(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = picture._write

    def record(canvas: NDArray[np.uint8], text: str, *position: tuple[int, int], **style: Any) -> None:
        written.append(text)
        write(canvas, text, *position, **style)

    monkeypatch.setattr(picture, "_write", record)
    plain = draw_ranked(Panel(frames(1), "query"), [Panel(frames(1), "a", "c1", 0.9)], basis="prior 0.1")
    assert not any("probable" in text for text in written)
    written.clear()
    hits = [Panel(frames(1), name, "c1", 0.9, probability=value) for name, value in (("a", 0.87), ("b", 0.99999))]
    image = draw_ranked(Panel(frames(1), "query"), hits, basis="prior 0.1")
    assert "probable appearance 87 %" in written
    assert "probable appearance > 99.9 %" in written
    assert "probable appearance: prior 0.1" in written
    assert not any("identif" in text.lower() for text in written)
    assert image.shape[0] > plain.shape[0]
    gap = picture._MARGIN + 2 * picture._PANEL_WIDTH + picture._QUERY_GAP
    captions = image[picture._TOP : -picture._LEGEND - picture._LINE_HEIGHT]
    assert (captions[:, gap + 2 : gap + picture._GAP - 2] == 255).all()


def test_shortened_text_keeps_both_ends() -> None:
    text = picture._shorten("warehouse-north-track-000123", 16, 120)
    assert "..." in text
    assert text.startswith("wa")
    assert text.endswith("23")
    assert picture._text_width(text, 16) <= 120
    assert picture._shorten("short", 16, 120) == "short"


def test_frames_are_picked_evenly() -> None:
    assert pick_evenly(0) == []
    assert pick_evenly(3) == [0, 1, 2]
    assert pick_evenly(8) == [1, 3, 5, 7]
    assert pick_evenly(100) == [12, 37, 62, 87]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".WEBP"])
def test_a_picture_is_written_as_its_suffix_says(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[..., 0] = 200
    path = tmp_path / f"a{suffix}"
    write_picture(path, image)
    read = cv2.imread(str(path))
    assert read is not None
    assert read[10, 10] == pytest.approx([0, 0, 200], abs=8)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \.png, \.jpg or \.webp \(got .*a\.gif\)"):
        write_picture(tmp_path / "a.gif", np.zeros((2, 2, 3), dtype=np.uint8))


def test_warnings_are_drawn_above_the_legend() -> None:
    query, hits = Panel(frames(1), "query"), [Panel(frames(1), "hit", None, 0.5, None, 0.5)]
    plain = draw_ranked(query, hits, basis="prior 0.1")
    warning = "4 of 4 frames have the shape or size of a full frame (1920x1080 pixels): send crops of one person"
    warned = draw_ranked(query, hits, basis="prior 0.1", warnings=[warning, "and another"])
    lines = (warned.shape[0] - plain.shape[0]) // picture._LINE_HEIGHT
    assert lines >= 3
    added = warned.shape[0] - plain.shape[0]
    np.testing.assert_array_equal(warned[-60:], plain[-60:])
    strip = warned[picture._TOP + picture._PANEL_HEIGHT : -60]
    assert (strip == RED).all(axis=2).sum() > 100
    assert not (plain[picture._TOP + picture._PANEL_HEIGHT : -60] == RED).all(axis=2).any()
    assert added == lines * picture._LINE_HEIGHT
