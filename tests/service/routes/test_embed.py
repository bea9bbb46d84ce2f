import base64
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest

from model.bundle import Bundle
from model.engines import open_engine
from model.frames import read_frame
from model.tracklet import split_into_clips, video_feature
from tests.service.live import Live, run_service
from tests.service.pictures import draw, encode, form, tracklet, write_video
from tests.service.problem import check_problem


def test_a_tracklet_is_enrolled_under_its_own_id(shared: Live) -> None:
    fields = {
        "id": "gate:1",
        "camera_id": "gate",
        "start_time": "2024-05-01T12:00:00+02:00",
        "end_time": "2024-05-01T12:00:05+02:00",
        "metadata": '{"person": "anna", "floor": 3}',
    }
    answer = shared.client.post("/embed", files=form(tracklet(1, 6)), data=fields)
    assert answer.status_code == 201
    assert answer.headers["location"] == "gallery/gate:1"
    space = shared.client.get("/info").json()["embedding_space"]
    assert answer.json() == {
        "id": "gate:1",
        "model": "colour-grid-0",
        "embedding_space": space,
        "dim": 32,
        "frames": 6,
        "clips": 2,
        "rejected_frames": [],
        "warnings": [],
    }
    record = shared.client.get("/gallery/gate:1").json()
    assert record["camera_id"] == "gate"
    assert record["start_time"] == "2024-05-01T10:00:00Z"
    assert record["end_time"] == "2024-05-01T10:00:05Z"
    assert record["metadata"] == {"person": "anna", "floor": 3}
    assert (record["frames"], record["clips"]) == (6, 2)


def test_a_tracklet_without_an_id_gets_a_new_one(shared: Live) -> None:
    answer = shared.client.post("/embed", files=form(tracklet(2, 1)))
    assert answer.status_code == 201
    assert answer.headers["location"] == f"gallery/{answer.json()['id']}"
    assert shared.client.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize("false", ["false", "False", "0", "no"])
def test_enroll_false_only_embeds(shared: Live, false: str) -> None:
    before = shared.client.get("/info").json()["gallery"]["records"]
    answer = shared.client.post(f"/embed?enroll={false}&include_embedding=true", files=form(tracklet(3, 2)))
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert answer.json()["id"] is None
    assert np.linalg.norm(answer.json()["embedding"]) == pytest.approx(1, abs=1e-5)
    assert shared.client.get("/info").json()["gallery"]["records"] == before


def test_the_embedding_is_the_mean_of_the_clips_as_the_model_computes_them(shared: Live, bundle: Path) -> None:
    """Through HTTP, in several pieces and batches, and by hand in one go."""
    frames = tracklet(4, 11)
    loaded = Bundle.load(bundle)
    resized = np.stack([read_frame(data, 64, 32) for data in frames])
    clips = resized[split_into_clips(11, 4)]
    wanted = video_feature(open_engine(loaded, "cpu", engine="onnxruntime").embed(clips))
    answer = shared.client.post("/embed?enroll=false&include_embedding=true", files=form(frames))
    np.testing.assert_allclose(answer.json()["embedding"], wanted, atol=1e-5)
    assert answer.json()["clips"] == 3


def test_a_long_tracklet_is_embedded_in_pieces(bundle: Path, tmp_path: Path) -> None:
    """With two clips a batch, 70 frames take nine pieces; the answer is that of one piece."""
    frames = [encode(draw(5, seed), ".jpg") for seed in range(70)]
    embeddings = []
    for max_batch in (2, 256):
        with run_service(bundle, tmp_path / str(max_batch), max_batch=max_batch) as live:
            answer = live.client.post("/embed?include_embedding=true", files=form(frames)).json()
            assert (answer["frames"], answer["clips"]) == (70, 18)
            embeddings.append(answer["embedding"])
            metrics = live.client.get("/metrics").text
            assert ("not3d_batch_clips_count 9.0" if max_batch == 2 else "not3d_batch_clips_count 2.0") in metrics
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)


def test_json_with_base64_frames_gives_the_same_embedding(shared: Live) -> None:
    frames = tracklet(6, 5)
    query = "/embed?enroll=false&include_embedding=true"
    by_form = shared.client.post(query, files=form(frames)).json()
    body = {"frames": [base64.b64encode(data).decode() for data in frames], "camera_id": "c"}
    by_json = shared.client.post(query, json=body).json()
    assert by_json == by_form


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_png_and_webp_are_read(shared: Live, extension: str) -> None:
    answer = shared.client.post("/embed?enroll=false", files=form(tracklet(7, 2, extension=extension)))
    assert answer.json()["frames"] == 2


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "mp4v"), ("v.mkv", "mp4v"), ("v.avi", "MJPG")])
def test_a_video_is_embedded_as_a_tracklet(shared: Live, name: str, codec: str, tmp_path: Path) -> None:
    data = write_video(tmp_path / name, [draw(8, seed) for seed in range(9)], codec)
    answer = shared.client.post("/embed?enroll=false&include_embedding=true", files={"video": ("x", data)})
    assert (answer.json()["frames"], answer.json()["clips"]) == (9, 3)
    frames = shared.client.post("/embed?enroll=false&include_embedding=true", files=form(tracklet(8, 9)))
    assert np.dot(answer.json()["embedding"], frames.json()["embedding"]) > 0.99


def test_boxes_are_cut_from_full_frames_and_from_a_full_video(shared: Live, tmp_path: Path) -> None:
    scenes = []
    for seed in range(6):
        scene = np.full((200, 300, 3), 60, np.uint8)
        scene[30:158, 100 + 5 * seed : 164 + 5 * seed] = draw(9, seed)
        scenes.append(scene)
    boxes = "[" + ",".join(f"[{index},{100 + 5 * index},30,64,128]" for index in range(6)) + "]"
    query = "/embed?enroll=false&include_embedding=true"
    crops = shared.client.post(query, files=form([encode(draw(9, seed), ".png") for seed in range(6)])).json()
    full = form([encode(scene, ".png") for scene in scenes])
    by_frames = shared.client.post(query, files=full, data={"boxes": boxes}).json()
    np.testing.assert_allclose(by_frames["embedding"], crops["embedding"], atol=1e-6)
    video = {"video": ("full.mp4", write_video(tmp_path / "v.mp4", scenes))}
    by_video = shared.client.post(query, files=video, data={"boxes": boxes}).json()
    assert by_video["frames"] == 6
    assert np.dot(by_video["embedding"], crops["embedding"]) > 0.99


def test_a_track_of_a_real_video_is_embedded(bundle: Path, tmp_path: Path, shared_data: Path) -> None:
    """1,394 full frames of which a tracker followed six people; its rows count frames from 1."""
    path = shared_data / "video" / "one-by-one-person-detection.mp4"
    rows = np.loadtxt(path.with_suffix(".tracks.csv"), delimiter=",", skiprows=0)
    track = rows[rows[:, 1] == rows[0, 1]][:24]
    boxes = [[int(frame) - 1, x, y, w, h] for frame, _, x, y, w, h in track[:, :6].tolist()]
    with run_service(bundle, tmp_path) as live, path.open("rb") as video:
        answer = live.client.post("/embed", files={"video": video}, data={"boxes": str(boxes), "id": "walker"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["frames"] == len(boxes)
    assert answer.json()["rejected_frames"] == []


def test_some_bad_frames_are_left_out_and_named(shared: Live) -> None:
    frames = tracklet(10, 5)
    frames[1], frames[3] = b"this is text", frames[3][:300]
    answer = shared.client.post("/embed", files=form(frames), data={"id": "mixed"})
    assert answer.status_code == 201
    assert answer.json()["frames"] == 3
    assert [frame["index"] for frame in answer.json()["rejected_frames"]] == [1, 3]
    assert "truncated" in answer.json()["rejected_frames"][1]["reason"]
    assert shared.client.get("/gallery/mixed").json()["frames"] == 3


def test_an_id_is_enrolled_once(shared: Live) -> None:
    first = shared.client.post("/embed", files=form(tracklet(11, 1)), data={"id": "once"})
    assert first.status_code == 201
    second = shared.client.post("/embed", files=form(tracklet(12, 1)), data={"id": "once"})
    check_problem(second, 409, "duplicate-id", field="id")


def test_of_two_requests_with_one_id_at_once_one_wins(shared: Live) -> None:
    for attempt in range(5):
        data = {"id": f"race-{attempt}"}
        answers: list[httpx.Response] = []
        together = threading.Barrier(2)

        def enrol(person: int, data: dict[str, str] = data, together: threading.Barrier = together) -> None:
            with httpx.Client(base_url=shared.url, timeout=30) as client:
                together.wait()
                answers.append(  # noqa: B023 - joined before the next attempt
                    client.post(
                        "/embed", files=form(tracklet(person, 3)), data=data | {"metadata": f'{{"person": {person}}}'}
                    )
                )

        threads = [threading.Thread(target=enrol, args=(person,)) for person in (20, 21)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won, lost = sorted(answers, key=lambda answer: answer.status_code)
        assert won.status_code == 201
        check_problem(lost, 409, "duplicate-id", field="id")
        assert shared.client.get(won.headers["location"]).json()["frames"] == 3
