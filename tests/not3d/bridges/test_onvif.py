"""ONVIF metadata: the transformation of boxes, and what cameras write in different ways."""

import base64
import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from not3d.bridges.grouped import GroupedOptions, GroupedSource
from not3d.bridges.observations import MalformedMessage, TrackGrouper
from not3d.bridges.onvif import OnvifReader, OnvifTopic, Transformation, read_frames, to_relative_box
from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.client import Client

JPEG = cv2.imencode(".jpg", np.zeros((64, 32, 3), np.uint8))[1].tobytes()
TIME = "2026-05-04T09:30:00.250Z"

shares = st.floats(0, 1)
factors = st.one_of(st.floats(0.01, 100), st.floats(-100, -0.01))
offsets = st.floats(-10, 10)


def person(object_id=15, box=(-0.5, 0.5, 0.0, -0.5), **more):
    left, top, right, bottom = box
    return {
        "@ObjectId": object_id,
        "Appearance": {
            "Shape": {"BoundingBox": {"@left": left, "@top": top, "@right": right, "@bottom": bottom}},
            "Class": {"Type": [{"@Likelihood": 0.8, "#text": "Human"}]},
            **more,
        },
    }


def message(*objects, **frame):
    return json.dumps({"Frame": [{"@UtcTime": TIME, "@Source": "c", "Object": list(objects), **frame}]})


def only(payload):
    (frame,) = read_frames(payload, "gate")
    assert frame.problems == ()
    (seen,) = frame.people
    return seen


def edges(box):
    return box.left, box.top, box.right, box.bottom


def sorted_sides(one, other):
    return (one, other) if one <= other else (other, one)


class TestTransformation:
    @given(left=shares, right=shares, top=shares, bottom=shares, sx=factors, sy=factors, tx=offsets, ty=offsets)
    def test_boxes_in_any_coordinates_come_back_as_shares_of_the_frame(self, left, right, top, bottom, sx, sy, tx, ty):
        """A camera writes a box in its own coordinates: the inverse of the transformation that it declares."""
        left, right = sorted_sides(left, right)
        top, bottom = sorted_sides(top, bottom)
        if right - left < 1e-3 or bottom - top < 1e-3:
            return

        def written(x, y):
            return (2 * x - 1 - tx) / sx, (1 - 2 * y - ty) / sy

        (x0, y0), (x1, y1) = written(left, top), written(right, bottom)
        node = {"@left": x0, "@top": y0, "@right": x1, "@bottom": y1}
        box = to_relative_box(node, Transformation(), Transformation((tx, ty), (sx, sy)))
        assert edges(box) == pytest.approx((left, top, right, bottom), abs=1e-9)

    @given(x=offsets, y=offsets, sx=factors, sy=factors, tx=offsets, ty=offsets)
    def test_nested_transformations_are_applied_from_the_inside_out(self, x, y, sx, sy, tx, ty):
        own, whole = Transformation((tx, ty), (sx, sy)), Transformation((0.5, -0.25), (2.0, -1.0))
        once = Transformation((0.5 + 2 * tx, -0.25 - ty), (2 * sx, -sy))
        assert whole.apply(*own.apply(x, y)) == pytest.approx(once.apply(x, y))

    @given(box=st.tuples(*[st.floats(-3, 3)] * 4))
    def test_what_is_outside_the_frame_is_clipped_or_refused(self, box):
        node = dict(zip(("@left", "@top", "@right", "@bottom"), box, strict=True))
        try:
            found = to_relative_box(node, Transformation(), Transformation())
        except MalformedMessage as error:
            assert error.reason == "box outside the frame"  # noqa: PT017 - of some examples
            left, top, right, bottom = ((min(max(value, -1), 1) + 1) / 2 for value in box)
            assert left == right or top == bottom
        else:
            assert 0 <= found.left < found.right <= 1
            assert 0 <= found.top < found.bottom <= 1

    def test_the_example_of_the_specification(self):
        """Pixels from the left lower corner of 640x480."""
        frame = {"Transformation": {"Translate": {"@x": -1, "@y": -1}, "Scale": {"@x": 0.003125, "@y": 0.00416667}}}
        seen = only(message(person(box=(20, 440, 120, 240)), **frame))
        assert edges(seen.box) == pytest.approx((20 / 640, 40 / 480, 120 / 640, 240 / 480), abs=1e-5)

    def test_pixels_from_the_left_upper_corner(self):
        frame = {"Transformation": {"Translate": {"@x": -1, "@y": 1}, "Scale": {"@x": 2 / 640, "@y": -2 / 480}}}
        seen = only(message(person(box=(20, 40, 120, 240)), **frame))
        assert edges(seen.box) == pytest.approx((20 / 640, 40 / 480, 120 / 640, 240 / 480))

    def test_without_a_transformation_y_goes_up(self):
        assert edges(only(message(person(box=(-0.5, 0.5, 0.0, -1.0)))).box) == (0.25, 0.25, 0.5, 1.0)


class TestReading:
    def test_one_object_instead_of_lists_other_spelling_and_numbers_as_text(self):
        payload = json.dumps(
            {
                "Frame": {
                    "UtcTime": "2026-05-04T09:30:00.250",
                    "Object": {
                        "ObjectId": "15",
                        "Appearance": {
                            "Shape": {"BoundingBox": {"left": "-0.5", "top": "0.5", "right": "0", "bottom": "-0.5"}},
                            "Class": {"Type": {"Likelihood": "0.8", "#text": "Person"}},
                        },
                    },
                }
            }
        )
        strict, lenient = only(message(person())), only(payload)
        assert (lenient.object, lenient.time, lenient.box) == (strict.object, strict.time, strict.box)

    @pytest.mark.parametrize(
        "classes",
        [
            {"Type": [{"@Likelihood": 0.9, "#text": "Vehicle"}, {"@Likelihood": 0.3, "#text": "Human"}]},
            {"Type": [{"@Likelihood": 0.9, "#text": "Animal"}]},
            {"ClassCandidate": [{"Type": "Vehical", "Likelihood": 0.5}]},
            {},
        ],
    )
    def test_what_is_no_person_is_left_out(self, classes):
        (frame,) = read_frames(message(person(Class=classes)), "gate")
        assert (frame.people, frame.problems) == ((), ())

    @pytest.mark.parametrize(
        "classes",
        [
            {"Type": "Human"},
            {"Type": {"#text": "Human"}},
            {"ClassCandidate": {"Type": "Human", "Likelihood": 0.5}},
            {"Type": [{"@Likelihood": 0.2, "#text": "Vehicle"}, {"@Likelihood": 0.3, "#text": "person"}]},
        ],
    )
    def test_people_in_each_form(self, classes):
        assert only(message(person(Class=classes))).object == "15"

    def test_people_below_the_least_likelihood_are_left_out(self):
        (frame,) = read_frames(message(person()), "gate", 0.81)
        assert (frame.people, frame.left_out) == ((), ("below the least likelihood",))

    def test_a_known_person_needs_no_class(self):
        nameless = {"Class": {}}
        (frame,) = read_frames(message(person(15, **nameless), person(16, **nameless)), "gate", is_known="15".__eq__)
        assert [each.object for each in frame.people] == ["15"]
        assert frame.left_out == ("no class",)

    def test_a_person_who_was_named_in_the_frame_before_needs_no_class(self):
        frames = [{"@UtcTime": TIME, "Object": person(**more)} for more in ({}, {"Class": {}})]
        assert [len(each.people) for each in read_frames(json.dumps({"Frame": frames}), "gate")] == [1, 1]

    def test_a_known_object_that_turns_out_to_be_no_person_is_left_out(self):
        (frame,) = read_frames(message(person(Class={"Type": "Animal"})), "gate", is_known=lambda name: True)
        assert (frame.people, frame.left_out) == ((), ("class animal",))

    def test_a_person_out_of_sight_is_left_out(self):
        """A camera may go on naming an object that it does not see, without its shape."""
        hidden = person()
        del hidden["Appearance"]["Shape"]
        (frame,) = read_frames(message(hidden), "gate")
        assert (frame.people, frame.problems, frame.left_out) == ((), (), ("neither box nor image",))

    def test_the_uuid_names_a_person_if_there_is_one(self):
        assert only(message({**person(), "@UUID": "7d1c"})).object == "7d1c"

    @pytest.mark.parametrize("form", [str, lambda text: {"#text": text}, lambda text: f"data:image/jpeg;base64,{text}"])
    def test_a_picture_is_taken_as_it_is(self, form):
        seen = only(message(person(Image=form(base64.b64encode(JPEG).decode()))))
        assert seen.crop == JPEG

    def test_one_bad_object_does_not_cost_the_others(self):
        bad = person(16)
        del bad["Appearance"]["Shape"]["BoundingBox"]["@top"]
        (frame,) = read_frames(message(bad, person(17), person(18, Image="%%%")), "gate")
        assert [each.object for each in frame.people] == ["17"]
        assert [each.reason for each in frame.problems] == ["BoundingBox top is not a number", "image is not base64"]

    @pytest.mark.parametrize(
        ("payload", "reason"),
        [
            (b"", "not JSON"),
            (b"\xff\xfe", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "not a JSON object"),
            (b"{}", "no Frame"),
            (b'{"Frame": [{}]}', "UtcTime is not a time"),
            (b'{"Frame": 7}', "UtcTime is not a time"),
            (b'{"Frame": {"@UtcTime": 1e400}}', "UtcTime is not a time"),
        ],
    )
    def test_malformed_messages_are_named(self, payload, reason):
        with pytest.raises(MalformedMessage) as refused:
            read_frames(payload, "gate")
        assert refused.value.reason == reason

    @pytest.mark.parametrize(
        ("topic", "camera"),
        [
            ("MyDevice/onvif-mj/VideoAnalytics/1/MyClassifier", "MyDevice-1"),
            ("site/gate/onvif-mj/VideoAnalytics/main/a/b", "site-gate-main"),
            ("onvif-mj/VideoAnalytics", "onvif"),
        ],
    )
    def test_the_topic_names_the_camera(self, topic, camera):
        read = OnvifTopic.read(topic)
        assert read is not None
        assert read.camera == camera

    def test_events_are_not_analytics(self):
        assert OnvifTopic.read("MyDevice/onvif-ej/RuleEngine/x") is None
        assert OnvifTopic.read("MyDevice/onvif-mj/AudioAnalytics/1/x") is None


class TestReader:
    @pytest.fixture
    def seen(self, tmp_path):
        """A reader, and the source that it feeds."""
        telemetry = Telemetry("onvif")
        with State(tmp_path / "state.sqlite") as state, Client(attempts=1) as client:
            sink = Sink(client, state, telemetry)
            source = GroupedSource(TrackGrouper(), state, sink, telemetry, GroupedOptions())
            yield OnvifReader(source, telemetry), state

    def test_a_class_that_is_sent_once_holds_for_the_track(self, seen):
        reader, state = seen
        for number in range(3):
            more = {"Class": {}} if number else {}
            frame = {"@UtcTime": f"2026-05-04T09:30:0{number}Z", "Object": person(**more)}
            reader.handle(json.dumps({"Frame": frame}).encode(), "gate/onvif-mj/VideoAnalytics/1/T")
        ((_, _, facts, _),) = state.observed()
        assert facts["seen"] == 3

    def test_what_a_camera_sends_in_vain_is_logged_once(self, seen, caplog):
        reader, _ = seen
        with caplog.at_level("INFO", "not3d.bridge"):
            for _ in range(3):
                payload = message(person(Class={"Type": "Pedestrian"}), person(16, Class={}))
                reader.handle(payload.encode(), "gate/onvif-mj/VideoAnalytics/1/T")
        facts = [record.facts for record in caplog.records]
        assert [(each["camera"], each["reason"]) for each in facts] == [
            ("gate-1", "class pedestrian"),
            ("gate-1", "no class"),
        ]


def test_a_frame_that_cannot_be_read_costs_only_itself():
    good = {"@UtcTime": TIME, "Object": [person()]}
    bad = [{"Object": [person()]}, "<tt:Frame/>", {"@UtcTime": "soon", "Object": [person()]},
           {"@UtcTime": TIME, "Transformation": {"Scale": {"@x": "wide"}}, "Object": [person()]}]  # fmt: skip
    frames = read_frames(json.dumps({"Frame": [bad[0], good, *bad[1:], good]}), "gate")
    assert [len(frame.people) for frame in frames] == [1, 1]
    reasons = [problem.reason for frame in frames for problem in frame.problems]
    assert reasons == ["UtcTime is not a time"] * 3 + ["Transformation x is not a number"]
    with pytest.raises(MalformedMessage, match="UtcTime"):
        read_frames(json.dumps({"Frame": bad[:3]}), "gate")


def test_of_a_message_with_very_many_objects_or_frames_the_first_are_read():
    (frame,) = read_frames(message(*(person(number) for number in range(1500))), "gate")
    assert len(frame.people) == 1000
    assert [str(problem) for problem in frame.problems] == ["too many items: 1500, of which 1000 are read"]
    frames = read_frames(json.dumps({"Frame": [{"@UtcTime": TIME}] * 1500}), "gate")
    assert len(frames) == 1000
    assert [problem.reason for problem in frames[0].problems] == ["too many items"]


def test_an_image_that_is_too_large_for_a_person_is_not_kept():
    image = base64.b64encode(JPEG + bytes(16_000_000)).decode()
    (frame,) = read_frames(message(person(Image=image)), "gate")
    assert frame.people == ()
    assert [problem.reason for problem in frame.problems] == ["image is too large"]
