"""DeepStream's messages: the minimal schema, the full one, and what is wrong in them."""

import json

import numpy as np
import pytest

from not3d.bridges.deepstream import read_message
from not3d.bridges.observations import MalformedMessage

TIME = "2026-05-04T09:30:00.250Z"


def minimal(*objects, **more):
    return json.dumps({"version": "4.0", "id": "8", "@timestamp": TIME, "sensorId": "gate", "objects": objects, **more})


def full(**more):
    node = {
        "id": "12",
        "person": {"age": 0, "gender": "", "confidence": 0.9},
        "bbox": {"topleftx": 192, "toplefty": 108, "bottomrightx": 384, "bottomrighty": 540},
        "embedding": {"embedding_length": 3, "embedding_vector": [0.6, 0.0, 0.8]},
        **more,
    }
    around = {"messageid": "m", "mdsversion": "1.0", "@timestamp": TIME, "sensor": {"id": "gate"}}
    return json.dumps(around | {"object": node})


def edges(box):
    return box.left, box.top, box.right, box.bottom


def test_the_minimal_schema_has_boxes_and_no_vectors():
    read = read_message(minimal("12|192|108|384|540|Person", "13|0|0|96|54|person|#|red||Car|0.9", "14|1|2|3|4|car"))
    assert (read.sensor, read.time.isoformat()) == ("gate", "2026-05-04T09:30:00.250000+00:00")
    assert [each.object for each in read.people] == ["12", "13"]
    assert edges(read.people[0].box) == (0.1, 0.1, 0.2, 0.5)
    assert read.people[0].vector is None
    assert read.problems == ()


def test_boxes_are_for_the_size_of_the_stream():
    assert edges(read_message(minimal("12|64|36|128|72|Person"), (640, 360)).people[0].box) == (0.1, 0.1, 0.2, 0.2)


def test_the_full_schema_has_a_box_and_a_vector():
    (seen,) = read_message(full()).people
    assert (seen.camera, seen.object) == ("gate", "12")
    assert edges(seen.box) == (0.1, 0.1, 0.2, 0.5)
    np.testing.assert_array_equal(seen.vector, [0.6, 0.0, 0.8])


def test_a_message_without_people_still_says_the_time():
    assert read_message(minimal()).people == ()


@pytest.mark.parametrize("track", ["18446744073709551615", "-1"])
def test_objects_without_a_track_are_left_out(track):
    read = read_message(minimal(f"{track}|192|108|384|540|Person"))
    assert (read.people, read.problems) == ((), ())
    assert read_message(full(id=track)).people == ()


def test_what_is_no_person_is_left_out():
    node = json.loads(full())
    node["object"]["vehicle"] = node["object"].pop("person")
    assert read_message(json.dumps(node)).people == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12|192|108|384", "object has too few parts"),
        ("12|left|108|384|540|Person", "box left is not a number"),
        ("12|nan|108|384|540|Person", "box left is not a number"),
        ("12|384|108|192|540|Person", "box outside the frame"),
        ("12|-50|108|-10|540|Person", "box outside the frame"),
        ("|192|108|384|540|Person", "no track id"),
        (7, "object is not text"),
    ],
)
def test_a_bad_object_is_named_and_the_others_count(text, reason):
    read = read_message(minimal(text, "13|192|108|384|540|Person"))
    assert [each.object for each in read.people] == ["13"]
    assert [each.reason for each in read.problems] == [reason]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"embedding": {"embedding_length": 4, "embedding_vector": [1, 2, 3]}}, "vector of another length"),
        ({"embedding": {"embedding_vector": [1, "x", 3]}}, "embedding_vector is not a number"),
        ({"embedding": {"embedding_vector": [1.0] * 8193}}, "vector is too long"),
        ({"embedding": {}, "bbox": {}}, "neither box nor vector"),
        ({"bbox": {"topleftx": 1}}, "bbox toplefty is not a number"),
        ({"id": None}, "no object id"),
    ],
)
def test_a_bad_object_of_the_full_schema_is_named(more, reason):
    read = read_message(full(**more))
    assert read.people == ()
    assert [each.reason for each in read.problems] == [reason]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "not JSON"),
        (json.dumps({"@timestamp": TIME}), "neither objects nor object"),
        (json.dumps({"objects": []}), "@timestamp is not a time"),
        (json.dumps({"@timestamp": TIME, "objects": []}), "no sensorId"),
        (
            json.dumps({"@timestamp": "0001-01-01T00:00:00Z", "objects": []}),
            "@timestamp is not a time",
        ),
        (json.dumps({"@timestamp": TIME, "sensorId": "\ud800", "objects": []}), "sensorId is not a name"),
        (json.dumps({"@timestamp": "today", "sensorId": "gate", "objects": []}), "@timestamp is not a time"),
    ],
)
def test_a_malformed_message_is_named(payload, reason):
    with pytest.raises(MalformedMessage) as refused:
        read_message(payload)
    assert refused.value.reason == reason


def test_of_a_message_with_very_many_objects_the_first_are_read():
    read = read_message(minimal(*(f"{number}|192|108|384|540|Person" for number in range(1500))))
    assert len(read.people) == 1000
    assert [str(problem) for problem in read.problems] == ["too many items: 1500, of which 1000 are read"]
