"""Tracks in the dialects of MOT, tables and JSON, and what people make of them."""

import json
from pathlib import Path

import pytest

from not3d.enrol.readers.tracks import TrackOptions, Tracks, TracksFormat, read_tracks
from not3d.enrol.tracklets import FootageError

ROWS = [(1, 7, 4.5, 10, 32, 64, 0.9), (2, 7, 8.5, 10, 32, 64, 0.8), (2, 9, 40, 10, 40, 70, 0.7)]
BOXES = {"7": [(0, 4.5, 10, 32, 64), (1, 8.5, 10, 32, 64)], "9": [(1, 40, 10, 40, 70)]}
HEADER = ("frame", "track", "x", "y", "w", "h", "confidence")


def read(path: Path, text: str | bytes, **options: object) -> Tracks:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_tracks(path, TrackOptions(**options))  # type: ignore[arg-type]


def table(separator: str, form: str = "{:g}", header: bool = False) -> str:
    lines = [separator.join(HEADER)] if header else []
    return "\n".join([*lines, *(separator.join(form.format(value) for value in row) for row in ROWS)]) + "\n"


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", "])
def test_any_encoding_and_separator_is_read(tmp_path: Path, separator: str, encoding: str, header: bool) -> None:
    found = read(tmp_path / "t.csv", table(separator, header=header).encode(encoding))
    assert found.boxes == BOXES
    assert not found.remarks


@pytest.mark.parametrize(
    "text",
    [
        table(",", "{:.1f}"),
        table(",", "{:.18e}"),
        table(";").replace(".", ","),
        table("\t").replace(".", ","),
        table(" ").replace(".", ","),
        table(",", '"{:g}"', header=True),
        'frame,track,x,y,w,h\n1,7,"4,5",10,32,64\n2,7,"8,5",10,32,64\n2,9,40,10,40,70\n',
        "sep=;\n" + table(";"),
        "# frame id x y w h conf\n" + table(" "),
        "% written by a tracker\n\n" + table(",").replace("\n", "\r\n"),
        table(",").replace("\n", "\r"),
        table(",").replace("\n", ",\n"),
        table(" ").replace("\n", " \n"),
        "".join(reversed(table(",").splitlines(keepends=True))),
        table(",").replace("7,", "007,"),
        "  " + table(" , "),
    ],
)
def test_numbers_and_lines_as_people_write_them(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "t.csv", text).boxes == BOXES


@pytest.mark.parametrize(
    "text",
    [
        "# frame x1 y1 x2 y2 track_id\n1 4.5 10 36.5 74 7\n2 8.5 10 40.5 74 7\n2 40 10 80 80 9\n",
        ",FrameId,Id,X,Y,Width,Height,Confidence,ClassId,Visibility\n"
        "0,1,7,4.5,10,32,64,1,1,1\n1,2,7,8.5,10,32,64,1,1,1\n2,2,9,40,10,40,70,1,1,1\n",
        "Frame_Number;Track ID;XC;YC;W;H;Class\n1;7;20.5;42;32;64;person\n2;7;24.5;42;32;64;person\n"
        "2;9;60;45;40;70;person\n",
        "id,track_id,frame,bb_left,bb_top,bb_width,bb_height\n100,7,1,4.5,10,32,64\n101,7,2,8.5,10,32,64\n"
        "102,9,2,40,10,40,70\n",
    ],
)
def test_columns_are_found_by_their_names(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "t.csv", text).boxes == BOXES


def records(**changes: object) -> list[dict[str, object]]:
    return [{"frame": row[0], "track_id": row[1], "bbox": list(row[2:6]), "label": "person", **changes} for row in ROWS]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(records()),
        json.dumps({"info": {}, "annotations": records()}, indent=1),
        "\n".join(map(json.dumps, records())) + "\n",
        "\ufeff" + json.dumps(records(class_id=0)),
        json.dumps({"frames": [{"frame": i, "objects": [r for r in records() if r["frame"] == i]} for i in (1, 2)]}),
        json.dumps(
            [
                [{"track_id": 7, "name": "person", "class": 0, "box": {"x1": 4.5, "y1": 10, "x2": 36.5, "y2": 74}}],
                [
                    {"track_id": 7, "name": "person", "class": 0, "box": {"x1": 8.5, "y1": 10, "x2": 40.5, "y2": 74}},
                    {"track_id": 9, "name": "person", "class": 0, "box": {"x1": 40, "y1": 10, "x2": 80, "y2": 80}},
                ],
            ]
        ),
    ],
)
def test_json_is_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "t.json", text).boxes == BOXES


def test_ground_truth_without_what_is_ignored_and_what_is_no_person(tmp_path: Path) -> None:
    text = "1,7,4.5,10,32,64,1,1,1.0\n1,8,0,0,60,120,0,12,0.3\n1,9,10,10,90,60,1,3,0.9\n1,10,0,0,60,120,0,1,1\n"
    found = read(tmp_path / "gt.txt", text)
    assert found.boxes == {"7": [(0, 4.5, 10, 32, 64)]}
    assert found.remarks == [
        "left out: 2 rows flagged as not to be considered",
        "left out: 1 row of other classes than 1 (--classes chooses others)",
    ]
    assert found.description.startswith("MOT ground truth, 9 columns, commas, frames counted from 1 (assumed")


def test_a_confidence_of_zero_or_unknown_is_no_flag(tmp_path: Path) -> None:
    for values in (("0", "0.5"), ("0", "0"), ("-1", "-1")):
        text = "".join(f"{frame},7,4,10,32,64,{value},-1,-1,-1\n" for frame, value in enumerate(values, start=1))
        assert len(read(tmp_path / "t.txt", text).boxes["7"]) == 2


def test_detections_of_mot_are_not_one_person(tmp_path: Path) -> None:
    text = "1,-1,4,10,32,64,0.9\n1,-1,40,10,32,64,0.9\n2,-1.0,4,10,32,64,0.9\n"
    with pytest.raises(FootageError, match="3 detections and no tracks"):
        read(tmp_path / "det.txt", text)
    found = read(tmp_path / "some.txt", text + "2,7,4,10,32,64,0.9\n")
    assert (set(found.boxes), found.remarks) == ({"7"}, ["left out: 3 detections without a track"])


@pytest.mark.parametrize("value", ["", "None", "nan", "-1", "null"])
def test_an_empty_track_in_a_table_is_no_track(tmp_path: Path, value: str) -> None:
    text = f"frame,x,y,w,h,tracker_id\n1,4,10,32,64,{value}\n1,4,10,32,64,7\n"
    assert set(read(tmp_path / "t.csv", text).boxes) == {"7"}


def test_the_base_of_frames_is_said_and_can_be_chosen(tmp_path: Path) -> None:
    file, text = tmp_path / "t.csv", "3,7,4,10,32,64,0.9\n"
    found = read(file, text)
    assert (found.boxes["7"][0][0], "frames counted from 1 (assumed" in found.description) == (2, True)
    assert read(file, text, frame_base=0).boxes["7"][0][0] == 3
    found = read(file, "0,7,4,10,32,64,0.9\n" + text)
    assert [box[0] for box in found.boxes["7"]] == [0, 3]
    assert "frames counted from 0 (it has a frame 0)" in found.description
    with pytest.raises(FootageError, match="line 1: frame 0 is not possible if frames are counted from 1"):
        read(file, "0,7,4,10,32,64,0.9\n", frame_base=1)


def test_boxes_without_size_and_repeated_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    text = table(",") + "3,7,4,10,0,64,1\n4,7,4,10,5,-2,1\n" + table(",").splitlines()[0] + "\n"
    found = read(tmp_path / "t.csv", text)
    assert found.boxes == BOXES
    assert found.remarks == [
        "left out: 2 rows whose box has no width or height",
        "left out: 1 row that repeats another row",
    ]


def test_boxes_relative_to_the_frame_are_recognised(tmp_path: Path) -> None:
    found = read(tmp_path / "t.csv", "frame,id,x,y,w,h\n1,7,0.25,0.5,0.5,0.25\n")
    assert "boxes relative to the frame" in found.description
    assert found.in_pixels(100, 200) == {"7": [(0, 25, 100, 50, 50)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("\n# nothing\n", "has no rows"),
        ("frame,track,x,y,w,h\n", "holds no tracks"),
        ("1,7,4,10,32\n", "line 1: .*5 columns"),
        (table(",") + "1 7 4 10 32 64 1\n", "line 4: "),
        (table(",") + "3,7,4,10,32,64,1,-1,-1,-1\n", "line 4: 10 columns, but the first row has 7"),
        (table(",") + "3,7,4,10,abc,64,1\n3.5,7,4,10,3,64,1\n", "(?s)line 4: .*line 5: "),
        ("1,7,4,10,32,64,1,1,1,1,1,1,1\n", "13 columns"),
        ("1,7,nan,10,32,64,1\n", "line 1: .*not finite"),
        ("frame,id,x,y,w,h\n1,7,1e999,10,32,64\n", "line 2: .*not finite"),
        ("1,7.5,4,10,32,64,1\n", "line 1: .*7.5"),
        ("1,7,4,10,32,64,1\n1,7,5,10,32,64,1\n", "line 2: track 7 has a second box in frame 1; the first is in line 1"),
        ("frame,x,y,w,h\n1,4,10,32,64\n", "no column for the track"),
        ("tracker_id,x_min,y_min,x_max,y_max\n1,4,10,32,64\n", "frame_index"),
        ("a,b,c,d,e,f\n1,7,4,10,32,64\n", "line 1: not frame"),
        ("frame,id,x,y,w,h,class\n1,7,4,10,32,64,2\n1,8,4,10,32,64,7\n", "holds no people.*2 \\(1 rows\\)"),
        ("[1, 2]", "no objects with boxes"),
        ("{broken", "not JSON"),
        ('{"frame":1,"id":7,"bbox":[1,2,3,4]}\n{"frame":', "line 2: not JSON"),
        ('[{"frame":1,"id":7,"bbox":[1,2,3]}]', "no column for a box"),
        ("\x00\x01\x02\x03abc", "not a text file"),
        ("9" * 500 + ",7,4,10,32,64,1\n", "line 1"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FootageError, match=message) as refused:
        read(tmp_path / "tracks.csv", text)
    assert len(str(refused.value)) < 4000


def test_the_format_can_be_declared(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match="not JSON"):
        read(tmp_path / "t.csv", table(","), format=TracksFormat.JSON)
    with pytest.raises(FootageError, match="is a file"):
        read(tmp_path / "t.csv", table(","), format=TracksFormat.ULTRALYTICS)
    with pytest.raises(FootageError, match="is a folder"):
        read_tracks(tmp_path, TrackOptions(TracksFormat.MOT))
    assert read(tmp_path / "t.csv", table(",", header=True), format=TracksFormat.CSV).boxes == BOXES


def test_label_files_of_several_videos_are_told_apart(tmp_path: Path) -> None:
    for name, track in (("a", 3), ("b", 4)):
        (tmp_path / f"{name}_12.txt").write_text(f"0 0.5 0.5 0.2 0.2 {track}\n")
    assert set(read_tracks(tmp_path, stem="b").boxes) == {"4"}
    with pytest.raises(FootageError, match="several videos"):
        read_tracks(tmp_path, stem="c")
    (tmp_path / "b_13.txt").write_text("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8\n")
    with pytest.raises(FootageError, match=r"b_13\.txt, line 1: 9 columns.*segments"):
        read_tracks(tmp_path, stem="b")


def test_labels_without_tracks_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"a_{number}.txt").write_text(f"0 0.5 0.5 0.2 0.2 0.{number}5\n")
    with pytest.raises(FootageError, match="2 detections and no tracks"):
        read_tracks(tmp_path, stem="a")


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FootageError, match="save_txt"):
        read_tracks(tmp_path)
