"""What clients send as footage and as numbers: whole floats, bad boxes, long tracks, full frames, other pictures."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.service.live import Live
from tests.service.pictures import draw, encode, form, tracklet
from tests.service.problem import check_problem

QUERY = "/embed?enroll=false&include_embedding=true"


def save(picture: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_, **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_whole_floats_are_integers_wherever_integers_are_taken(shared: Live) -> None:
    frames = form([encode(draw(1, seed, height=200, width=100)) for seed in range(3)])
    whole = shared.client.post(QUERY, files=frames, data={"boxes": "[[0,2,3,60,120],[2,2,3,60,120]]", "max_clips": "1"})
    floats = {"boxes": json.dumps(np.array([[0, 2, 3, 60, 120], [2, 2, 3, 60, 120.0]]).tolist()), "max_clips": "1.0"}
    assert shared.client.post(QUERY, files=frames, data=floats).json() == whole.json()
    assert whole.status_code == 200
    vector = whole.json()["embedding"]
    for top_k in (3.0, 3e0):
        assert shared.client.post("/search", json={"embedding": vector, "top_k": top_k}).status_code == 200
    assert shared.client.get("/gallery?limit=3.0").status_code == 200
    assert shared.client.get("/audit?limit=3.0").status_code == 200
    for bad in (3.5, "3", True, 1e300):
        answer = shared.client.post("/search", json={"embedding": vector, "top_k": bad})
        check_problem(answer, 400, "malformed", field="top_k")


@pytest.mark.parametrize("by_json", [False, True])
def test_a_track_of_any_length_is_embedded_with_max_clips(shared: Live, by_json: bool) -> None:
    """The service allows 2000 frames; only the chosen ones count."""
    frame = tracklet(1, 1)[0]
    if by_json:
        body = {"frames": [base64.b64encode(frame).decode()] * 2500}
        check_problem(shared.client.post(QUERY, json=body), 413, "too-large", field="frames")
        answer = shared.client.post(QUERY, json=body | {"max_clips": 3})
    else:
        check_problem(shared.client.post(QUERY, files=form([frame] * 2500)), 413, "too-large", field="frames")
        answer = shared.client.post(QUERY, files=form([frame] * 2500), data={"max_clips": "3"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["frames"], answer.json()["clips"]) == (12, 3)
    boxes = json.dumps([[0, 0, 0, 40, 90]] * 2500)
    fields = {"boxes": boxes, "max_clips": "2"}
    assert shared.client.post(QUERY, files=form([frame]), data=fields).json()["clips"] == 2


def test_full_frames_are_embedded_with_a_warning(shared: Live) -> None:
    full = form([encode(draw(1, seed, height=90, width=160)) for seed in range(4)])
    answer = shared.client.post("/embed", files=full, data={"id": "full-frames"})
    assert answer.status_code == 201
    [warning] = answer.json()["warnings"]
    assert "4 of 4 frames" in warning
    assert "160x90" in warning
    assert "boxes" in warning
    assert shared.client.post("/search", files=full).json()["warnings"] == [warning]
    assert shared.client.put("/gallery/full-frames", files=full).json()["warnings"] == [warning]
    crops = form(tracklet(1, 4))
    assert shared.client.post(QUERY, files=crops).json()["warnings"] == []
    assert shared.client.post("/search", files=crops).json()["warnings"] == []
    assert shared.client.post("/search", json={"id": "full-frames"}).json()["warnings"] == []
    boxes = {"boxes": json.dumps([[index, 5, 0, 40, 88] for index in range(4)])}
    assert shared.client.post(QUERY, files=full, data=boxes).json()["warnings"] == []


def test_boxes_of_missing_frames_give_a_warning(shared: Live) -> None:
    """Often the frames were counted from 1."""
    frames = form([encode(draw(1, seed)) for seed in range(4)])
    boxes = json.dumps([[index, 0, 0, 60, 120] for index in (1, 2, 3, 4)])
    answer = shared.client.post(QUERY, files=frames, data={"boxes": boxes}).json()
    assert [frame["index"] for frame in answer["rejected_frames"]] == [3]
    assert "count its frames from 0" in answer["warnings"][0]


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_animated_pictures_are_refused_by_name(shared: Live, format_: str) -> None:
    pictures = [Image.fromarray(draw(1, seed)) for seed in range(3)]
    data = save(pictures[0], format_, save_all=True, append_images=pictures[1:])
    document = check_problem(shared.client.post(QUERY, files=form([data])), 415, "unsupported-content", frame=0)
    words = {"PNG": "animated", "WEBP": "animated", "MPO": "several JPEG pictures"}.get(
        format_, "JPEG, PNG, WebP or BMP"
    )
    assert words in document["detail"]


def test_transparent_pictures_have_one_embedding_whatever_lies_below(shared: Live) -> None:
    person = draw(3)
    mask = np.zeros(person.shape[:2], np.uint8)
    mask[10:120, 8:56] = 255
    plain = person.copy()
    plain[mask == 0] = 128
    wanted = shared.client.post(QUERY, files=form([encode(plain, ".png")])).json()["embedding"]
    for colour in (0, 255):
        below = person.copy()
        below[mask == 0] = colour
        cut_out = Image.fromarray(np.dstack([below, mask]))
        for data in (save(cut_out, "PNG"), save(cut_out, "WEBP", lossless=True, exact=True)):
            found = shared.client.post(QUERY, files=form([data])).json()["embedding"]
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ('{"n": 9223372036854775808}', "outside -9223372036854775808 to 9223372036854775807"),
        ('{"n": -9223372036854775809}', "outside -9223372036854775808 to 9223372036854775807"),
        ('{"n": 1e999}', "beyond 1.8e308"),
        ('{"n": NaN}', "NaN"),
        ('{"n": {"a": 1, "b": 2, "a": 3}}', "'a' twice"),
        ('{"n": "\\ud800"}', "hex escape"),
        ('{"\\udfff": 1}', "surrogate"),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused_in_true_words(shared: Live, metadata: str, words: str) -> None:
    crops = tracklet(1, 1)
    answer = shared.client.post(QUERY, files=form(crops), data={"metadata": metadata})
    assert words in check_problem(answer, 400, "malformed")["detail"]
    text = base64.b64encode(crops[0]).decode()
    body = '{"frames": ["' + text + '"], "metadata": ' + metadata + "}"
    answer = shared.client.post(QUERY, content=body.encode(), headers={"content-type": "application/json"})
    assert words in check_problem(answer, 400, "malformed")["detail"]


def test_the_largest_integers_are_kept(shared: Live) -> None:
    metadata = {"most": 2**63 - 1, "least": -(2**63), "large": 1.7e308}
    fields = {"id": "integers", "metadata": json.dumps(metadata)}
    assert shared.client.post("/embed", files=form(tracklet(1, 1)), data=fields).status_code == 201
    assert shared.client.get("/gallery/integers").json()["metadata"] == metadata


def test_duplicate_fields_of_a_json_body_are_refused(shared: Live) -> None:
    answer = shared.client.post(
        "/search", content=b'{"id": "a", "id": "b"}', headers={"content-type": "application/json"}
    )
    assert "'id' twice" in check_problem(answer, 400, "malformed", field="body")["detail"]
