"""What the service finds, on a real broker: matches, alerts, and what Home Assistant is told."""

import json
import re
import time

import pytest

from not3d.bridges.frigate.api import Frigate
from not3d.bridges.frigate.source import FrigateOptions, FrigateSource
from not3d.bridges.frigate.write_back import write_back_confirmed
from not3d.bridges.home_assistant import Topics, level, object_id
from not3d.bridges.mqtt import Broker, Mqtt
from not3d.bridges.results import ResultOptions
from not3d.client import Client
from not3d.commands.bridge_options import published
from tests.not3d.bridges.conftest import Running
from tests.not3d.bridges.fake_frigate import FakeFrigate
from tests.not3d.bridges.test_frigate import QUICK, Clock, record_id
from tests.service.live import run_service, wait_for

EXPECTED = {"name", "unique_id", "default_entity_id", "availability_topic", "device", "origin", "qos"}


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    with run_service(bundle, tmp_path_factory.mktemp("gallery"), thumbnails=1, require_purpose=True) as live:
        yield live


@pytest.fixture(autouse=True)
def empty(service):
    for item in service.client.get("/gallery?limit=1000").json()["items"]:
        service.client.delete(f"/gallery/{item['id']}")
    for item in service.client.get("/watchlists").json().get("items", ()):
        service.client.delete(f"/watchlists/{item['name']}")


@pytest.fixture
def fake(broker):
    with FakeFrigate(broker).serve() as fake:
        yield fake


@pytest.fixture
def peer(broker):
    peer = broker.connect("home-assistant")
    yield peer
    peer.close()


@pytest.fixture
def start(broker, service, tmp_path, request, monkeypatch):
    monkeypatch.setattr("not3d.bridges.results.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("not3d.bridges.results.WATCHLIST_SECONDS", 0.1)
    monkeypatch.setattr("not3d.bridges.results.VERDICT_SECONDS", 0.1)
    running = []
    base = re.sub(r"\W", "_", request.node.name)
    topics = Topics(base, "frigate", f"{base}_ha")

    def start(fake, *, write_back=False, login=None, now=time.time, **options):
        async def source(state, sink, telemetry):
            mqtt = Mqtt(Broker.parse(broker.url, client_id=base), telemetry, status_topic=topics.status)
            user, password = login or (None, None)
            async with Frigate(fake.url, user=user, password=password) as api:
                confirm = write_back_confirmed(api, telemetry) if write_back else None
                chosen = ResultOptions(topics, **options)
                address = (service.url, None, None)
                async with published(mqtt, chosen, address, state, sink, telemetry, confirm) as found:
                    frigate = FrigateOptions(**QUICK)
                    await FrigateSource(mqtt, api, state, sink, telemetry, frigate, found.add_cameras, now).run()

        running.append(Running(source, Client(service.url, attempts=1), tmp_path / "bridge.sqlite"))
        wait_for(lambda: running[-1].value("caught_up") == 1 or running[-1].error)
        return running[-1], topics

    yield start
    for bridge in running:
        bridge.stop()


@pytest.fixture
def start_results(broker, tmp_path, request, monkeypatch):
    """Starts a bridge without a source, whose results are asked for at an address."""
    monkeypatch.setattr("not3d.bridges.results.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("not3d.bridges.results.WATCHLIST_SECONDS", 0.05)
    monkeypatch.setattr("not3d.bridges.results.VERDICT_SECONDS", 0.05)
    running = []
    base = re.sub(r"\W", "_", request.node.name)

    def start_results(url):
        async def confirm(alert):
            pass

        async def source(state, sink, telemetry):
            mqtt = Mqtt(Broker.parse(broker.url, client_id=base), telemetry)
            options = ResultOptions(Topics(base, "frigate", f"{base}_ha"))
            async with published(mqtt, options, (url, None, None), state, sink, telemetry, confirm):
                await mqtt.run()

        running.append(Running(source, Client(url, attempts=1), tmp_path / "bridge.sqlite"))
        return running[-1]

    yield start_results
    for bridge in running:
        bridge.stop()


def last(peer, topic):
    found = peer.on(topic)
    return json.loads(found[-1]) if found else None


def test_a_person_of_two_cameras_is_a_match_and_an_event_for_home_assistant(fake, peer, start):
    bridge, topics = start(fake, alerts=False)
    peer.subscribe(f"{topics.base}/#")
    peer.subscribe(f"{topics.discovery}/#")
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    second = fake.walk("street", person=2)
    wait_for(lambda: peer.on(topics.match("street")))
    match = last(peer, topics.match("street"))
    assert (match["event_type"], match["event_id"], match["camera"]) == ("match", second.id, "street")
    assert match["searched"] == 1
    assert match["embedding_space"]
    (found,) = match["matches"]
    assert found.keys() == {"id", "camera_id", "start_time", "score", "probability"}
    assert (found["id"], found["camera_id"]) == (record_id(first), "yard")
    assert not any(retained for topic, _, retained in peer.heard if topic == topics.match("street"))
    assert peer.on(topics.match("yard")) == []
    wait_for(lambda: all(last(peer, config(topics, camera)) for camera in ("yard", "street")))
    entity = last(peer, config(topics, "street"))
    assert entity.keys() >= EXPECTED
    assert entity["state_topic"] == topics.match("street")
    assert match["event_type"] in entity["event_types"]
    assert re.fullmatch(r"event\.[a-z0-9_]+", entity["default_entity_id"])
    assert entity["availability_topic"] == topics.status
    assert entity["device"] == last(peer, config(topics, "yard"))["device"]
    assert entity["unique_id"] != last(peer, config(topics, "yard"))["unique_id"]
    wait_for(lambda: peer.on(topics.status)[-1:] == [b"online"])
    peer.heard.clear()
    peer.publish(f"{topics.discovery}/status", "online")  # Home Assistant was restarted
    wait_for(lambda: last(peer, config(topics, "street")) == entity)


def config(topics, camera):
    return f"{topics.discovery}/event/{topics.base}_frigate_{camera}_match/config"


def test_entities_survive_a_restart_with_the_same_ids(fake, peer, start):
    bridge, topics = start(fake, alerts=False)
    peer.subscribe(f"{topics.discovery}/#")
    wait_for(lambda: last(peer, config(topics, "yard")))
    before = last(peer, config(topics, "yard"))
    bridge.stop()
    peer.heard.clear()
    start(fake, alerts=False)
    wait_for(lambda: last(peer, config(topics, "yard")) == before)


def test_a_match_that_the_broker_did_not_get_is_published_by_the_next_start(broker, fake, start):
    clock = Clock()
    bridge, topics = start(fake, alerts=False, now=clock)
    fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("messages_total", outcome="used") == 8)
    clock.now += 1
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    fake.walk("street", person=2)
    wait_for(lambda: bridge.value("messages_total", outcome="used") == 16)
    broker.stop()
    clock.now += 1
    try:
        wait_for(lambda: bridge.value("enrolled_total", result="new") == 2)
        bridge.stop()
    finally:
        broker.start()
    fake.disconnect()
    peer = broker.connect("home-assistant")
    try:
        peer.subscribe(f"{topics.base}/#")
        again, _ = start(fake, alerts=False)
        wait_for(lambda: again.value("messages_total", outcome="match_published") == 1)
        wait_for(lambda: peer.on(topics.match("street")))
        again.stop()
        third, _ = start(fake, alerts=False)
        third.stop()
        assert len(peer.on(topics.match("street"))) == 1
    finally:
        peer.close()


def test_results_below_the_threshold_are_not_published(fake, peer, start):
    bridge, topics = start(fake, alerts=False, min_score=0.9999999)
    peer.subscribe(f"{topics.base}/#")
    fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    fake.walk("street", person=5)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 2)
    fake.walk("street", person=6)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 3)
    assert bridge.value("messages_total", outcome="match_published") == 0


def watch(service, name, event, **fields):
    body = {"ids": [record_id(event)], "min_score": 0.95, "cooldown": 0} | fields
    answer = service.client.put(f"/watchlists/{name}", json=body)
    assert answer.status_code in {200, 201}, answer.text


def test_an_alert_is_a_sensor_with_a_picture_until_nobody_is_present(fake, service, peer, start):
    bridge, topics = start(fake, matches=False, presence_seconds=4.0)
    peer.subscribe(f"{topics.base}/#")
    peer.subscribe(f"{topics.discovery}/#")
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    watch(service, "lost.child", first)
    state = topics.watchlist("lost.child", "state")
    wait_for(lambda: peer.on(state) == [b"nobody"])
    sensor = last(peer, topics.config("sensor", f"{topics.base}_watchlist_lost.child"))
    assert sensor.keys() >= EXPECTED
    assert sensor["state_topic"] == state
    second = fake.walk("street", person=2)
    wait_for(lambda: peer.on(state)[:2] == [b"nobody", b"street"])
    wait_for(lambda: peer.on(topics.alert("lost.child")))
    assert last(peer, topics.alert("lost.child"))["record_id"] == record_id(second)
    attributes = last(peer, topics.watchlist("lost.child", "attributes"))
    assert (attributes["record_id"], attributes["camera_id"]) == (record_id(second), "street")
    wait_for(lambda: peer.on(topics.watchlist("lost.child", "image")))
    assert peer.on(topics.watchlist("lost.child", "image"))[0][:3] == b"\xff\xd8\xff"
    assert last(peer, topics.config("image", f"{topics.base}_watchlist_lost.child_image"))["image_topic"]
    wait_for(lambda: peer.on(state) == [b"nobody", b"street", b"nobody"])
    wait_for(lambda: peer.on(topics.watchlist("lost.child", "image"))[-1] == b"")
    service.client.delete("/watchlists/lost.child")
    wait_for(lambda: peer.on(topics.config("sensor", f"{topics.base}_watchlist_lost.child"))[-1] == b"")


def test_a_person_stays_present_over_a_restart_and_the_picture_is_removed_after_it(fake, service, peer, start):
    bridge, topics = start(fake, matches=False)
    peer.subscribe(f"{topics.base}/#")
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    watch(service, "case-1", first)
    state, image = topics.watchlist("case-1", "state"), topics.watchlist("case-1", "image")
    wait_for(lambda: peer.on(state) == [b"nobody"])
    fake.walk("street", person=2)
    wait_for(lambda: peer.on(image) and peer.on(state)[-1] == b"street")
    bridge.stop()
    peer.subscribe(f"{topics.discovery}/#")
    peer.heard.clear()
    bridge, _ = start(fake, matches=False)
    wait_for(lambda: bridge.value("connected") == 1 and peer.on(state))
    assert set(peer.on(state)) == {b"street"}  # Home Assistant would call another state an arrival
    wait_for(lambda: last(peer, topics.config("image", f"{topics.base}_watchlist_case-1_image")))
    bridge.stop()
    start(fake, matches=False, presence_seconds=0.2)
    wait_for(lambda: peer.on(state)[-1] == b"nobody" and peer.on(image)[-1:] == [b""])


def test_alerts_of_the_time_away_are_published_once(fake, service, peer, start):
    bridge, topics = start(fake, matches=False)
    peer.subscribe(f"{topics.base}/#")
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    watch(service, "case-1", first)
    wait_for(lambda: peer.on(topics.watchlist("case-1", "state")))
    fake.walk("street", person=2)
    wait_for(lambda: bridge.value("messages_total", outcome="alert_published") == 1)
    bridge.stop()
    copy = service.client.get(f"/gallery/{record_id(first)}?include_embedding=true").json()
    body = {name: copy[name] for name in ("embedding", "embedding_space")} | {"camera_id": "hall"}
    assert service.client.put("/gallery/while-away", json=body).status_code in {200, 201}
    again, _ = start(fake, matches=False)
    wait_for(lambda: again.value("messages_total", outcome="alert_published") == 1)
    wait_for(lambda: last(peer, topics.alert("case-1"))["record_id"] == "while-away")
    assert len(peer.on(topics.alert("case-1"))) == 2


def test_an_alert_that_the_broker_did_not_get_is_published_by_the_next_start(broker, fake, service, start):
    bridge, topics = start(fake, matches=False)
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    watch(service, "case-1", first)
    broker.stop()
    try:
        wait_for(lambda: bridge.value("connected") == 0)
        copy = service.client.get(f"/gallery/{record_id(first)}?include_embedding=true").json()
        body = {name: copy[name] for name in ("embedding", "embedding_space")} | {"camera_id": "hall"}
        assert service.client.put("/gallery/broker-away", json=body).status_code == 201
        time.sleep(0.5)  # the stream has the alert after milliseconds
        bridge.stop()
    finally:
        broker.start()
    peer = broker.connect("home-assistant")
    try:
        peer.subscribe(f"{topics.base}/#")
        again, _ = start(fake, matches=False)
        wait_for(lambda: again.value("messages_total", outcome="alert_published") == 1)
        wait_for(lambda: peer.on(topics.alert("case-1")))
        assert last(peer, topics.alert("case-1"))["record_id"] == "broker-away"
    finally:
        peer.close()


@pytest.mark.parametrize("user", ["ann", "vic"])
def test_only_confirmed_alerts_are_written_back_and_only_by_admins(broker, service, start, user):
    password = {"ann": "an admin's password", "vic": "a viewer's password"}[user]
    with FakeFrigate(broker, login=True).serve() as fake:
        bridge, _ = start(fake, matches=False, write_back=True, login=(user, password))
        first = fake.walk("yard", person=2)
        wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
        watch(service, "case-1", first)
        second, third = fake.walk("street", person=2), fake.walk("street", person=2, age=40)
        verdicts = {record_id(second): "same", record_id(third): "different"}

        def alerts():
            items = service.client.get("/alerts").json()["items"]
            return [item for item in items if item["record_id"] in verdicts]

        wait_for(lambda: len(alerts()) == 2)
        for alert in alerts():
            body = {"verdict": verdicts[alert["record_id"]]}
            answer = service.client.put(f"/alerts/{alert['id']}/verdict", json=body)
            assert answer.status_code == 200, answer.text
        if user == "ann":
            wait_for(lambda: second.sub_label is not None)
            assert second.sub_label[0] == "case-1"
            assert 0 < second.sub_label[1] <= 1
        else:
            wait_for(lambda: bridge.value("messages_total", outcome="sub_label_refused") >= 1)
            assert second.sub_label is None
        assert third.sub_label is None
        bridge.stop()


def test_every_alert_that_was_confirmed_while_the_bridge_was_away_is_written_back_once(fake, service, start):
    bridge, _ = start(fake, matches=False, alerts=False, write_back=True)
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    bridge.stop()
    watch(service, "case-1", first)
    copy = service.client.get(f"/gallery/{record_id(first)}?include_embedding=true").json()
    events = [fake.walk("yard", publish=False) for _ in range(130)]
    for event in events:
        body = {name: copy[name] for name in ("embedding", "embedding_space", "camera_id")}
        assert service.client.put(f"/gallery/{record_id(event)}", json=body).status_code == 201
    alerts = service.client.get("/alerts?limit=200").json()["items"]
    judged = [alert for alert in alerts if alert["record_id"] != record_id(events[7])]
    assert len(judged) == 129
    for alert in judged:
        assert service.client.put(f"/alerts/{alert['id']}/verdict", json={"verdict": "same"}).status_code == 200
    bridge, _ = start(fake, matches=False, alerts=False, write_back=True)
    wait_for(lambda: sum(event.sub_label is not None for event in events) == 129)
    (late,) = [alert for alert in alerts if alert["record_id"] == record_id(events[7])]
    assert service.client.put(f"/alerts/{late['id']}/verdict", json={"verdict": "same"}).status_code == 200
    wait_for(lambda: events[7].sub_label is not None)
    bridge.stop()
    again, _ = start(fake, matches=False, alerts=False, write_back=True)
    again.stop()
    assert fake.calls["sub_label"] == 130


def test_the_picture_is_removed_and_the_sensor_right_after_a_restart(fake, service, peer, start):
    bridge, topics = start(fake, matches=False)
    peer.subscribe(f"{topics.base}/#")
    first = fake.walk("yard", person=2)
    wait_for(lambda: bridge.value("enrolled_total", result="new") == 1)
    watch(service, "case-1", first)
    fake.walk("street", person=2)
    wait_for(lambda: bridge.value("messages_total", outcome="alert_published") == 1)
    bridge.stop()
    state, image = topics.watchlist("case-1", "state"), topics.watchlist("case-1", "image")
    wait_for(lambda: peer.on(image) and peer.on(topics.status)[-1] == b"offline")
    peer.heard.clear()
    start(fake, matches=False, presence_seconds=2.0)
    wait_for(lambda: peer.on(image) == [b""])
    assert set(peer.on(state)) <= {b"street", b"nobody"}
    assert peer.on(state)[-1] == b"nobody"
    if len(peer.on(state)) > 1:  # the window was not over at the start
        assert peer.on(state)[0] == b"street"


def test_names_with_special_characters_stay_apart():
    assert level("a/b+c#") == "a_b_c_"
    assert object_id("yard") == "yard"
    assert object_id("hof tür") != object_id("hof t r")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", object_id("hof tür"))


@pytest.mark.parametrize("body", [b"[]", b"5", b'{"items": null, "cursor": null}', b"[" * 100_000])
def test_an_address_where_another_program_answers_does_not_end_the_bridge(broker, answering, start_results, body):
    bridge = start_results(answering(200, "application/json", body))
    for call in ("watchlists", "alerts", "verdicts"):
        wait_for(lambda call=call: bridge.value("retries_total", call=call) >= 2 or bridge.error)
    assert bridge.error is None
