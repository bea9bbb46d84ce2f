"""The connection to a real broker."""

import asyncio
import contextlib
import gc
import sqlite3
import threading

import aiomqtt
import pytest

from not3d.bridges.mqtt import Broker, BrokerError, Mqtt, _with_cure
from not3d.bridges.telemetry import Telemetry
from tests.not3d.bridges.mosquitto import PASSWORD, USER, Mosquitto
from tests.service.live import wait_for


class Listener:
    """A connection in a thread that remembers what it hears."""

    def __init__(self, broker, topic="in/#", handler=None):
        self.heard = []
        self.telemetry = Telemetry("test")
        self.mqtt = None
        self._broker, self._topic, self._handler = broker, topic, handler
        self.error, self.ended = None, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.mqtt = Mqtt(self._broker, self.telemetry, status_topic="not3d/status")

        async def remember(message):
            if self._handler:
                await self._handler(message)
            self.heard.append(message.payload)

        self.mqtt.subscribe(self._topic, remember)
        task = asyncio.create_task(self.mqtt.run())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        stopped.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.ended.set()

    @property
    def connected(self):
        return self.telemetry.registry.get_sample_value("not3d_bridge_connected", {"source": "test"}) == 1

    def retain(self, *message):
        self._loop.call_soon_threadsafe(self.mqtt.retain, *message)

    def stop(self):
        with contextlib.suppress(RuntimeError):  # stopped before
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)
        assert not self._thread.is_alive()


@pytest.fixture
def listen():
    listeners = []

    def listen(broker, **options):
        listeners.append(Listener(broker, **options))
        wait_for(lambda: listeners[-1].connected)
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.stop()


def test_messages_arrive_and_the_status_is_retained(broker, listen):
    peer = broker.connect()
    listener = listen(Broker.parse(broker.url, client_id="status"))
    peer.publish("in/a", "1")
    wait_for(lambda: listener.heard == [b"1"])
    listener.retain("out", "2")
    peer.subscribe("#")
    wait_for(lambda: ("not3d/status", b"online", True) in peer.heard)
    listener.retain("out", "3")
    wait_for(lambda: b"3" in peer.on("out"))
    listener.stop()
    wait_for(lambda: peer.on("not3d/status")[-1] == b"offline")
    peer.close()


def test_tls_and_passwords(secure_broker, listen):
    peer = secure_broker.connect()
    options = {"username": USER, "password": PASSWORD, "ca_file": secure_broker.ca_file}
    listener = listen(Broker.parse(secure_broker.url, **options))
    peer.publish("in/a", "1")
    wait_for(lambda: listener.heard == [b"1"])
    peer.close()


# The MQTT library leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("password", "with_ca", "reason"),
    [("wrong", True, "check the user and the password"), (PASSWORD, False, "(--mqtt-ca-file)")],
)
def test_a_refused_login_or_certificate_is_retried_and_logged(secure_broker, caplog, password, with_ca, reason):
    caplog.set_level("INFO")
    ca_file = secure_broker.ca_file if with_ca else None
    listener = Listener(Broker.parse(secure_broker.url, username=USER, password=password, ca_file=ca_file))
    wait_for(lambda: any(reason in str(getattr(record, "facts", "")).lower() for record in caplog.records))
    assert not listener.connected
    listener.stop()
    gc.collect()
    assert password not in caplog.text


def test_the_connection_comes_back_after_the_broker_and_what_was_published_meanwhile_is_sent(tmp_path, listen):
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    listener = listen(Broker.parse(broker.url))
    broker.stop()
    wait_for(lambda: not listener.connected)
    listener.retain("out", "while away")
    broker.start()
    peer = broker.connect()
    peer.subscribe("out")
    wait_for(lambda: listener.connected)
    wait_for(lambda: peer.on("out") == [b"while away"])
    peer.publish("in/a", "back")
    wait_for(lambda: listener.heard == [b"back"])
    peer.close()
    listener.stop()
    broker.stop()


def test_messages_wait_at_the_broker_while_the_bridge_is_away(broker, listen):
    address = Broker.parse(broker.url, client_id="away")
    listen(address, topic="away/#").stop()
    peer = broker.connect()
    for number in range(3):
        peer.publish("away/a", f"{number}")
    again = listen(address, topic="away/#")
    wait_for(lambda: again.heard == [b"0", b"1", b"2"])
    peer.close()


@pytest.mark.parametrize(("call", "nth"), [("subscribe", 1), ("publish", 1), ("publish", 2)])
def test_a_bridge_that_is_stopped_while_the_broker_answers_ends(broker, monkeypatch, call, nth):
    """`asyncio.wait_for`, in the library's calls, drops a cancellation that comes together with the answer."""
    original, calls = getattr(aiomqtt.Client, call), []

    async def run():
        mqtt = Mqtt(Broker.parse(broker.url, client_id="stopped"), Telemetry("test"), status_topic="not3d/status")
        mqtt.subscribe("stopped/#", None)
        mqtt.retain("stopped", "")
        task = asyncio.create_task(mqtt.run())

        async def answer(client, *arguments, **options):
            found = await original(client, *arguments, **options)
            calls.append(call)
            if len(calls) == nth:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(5)
            return found

        monkeypatch.setattr(aiomqtt.Client, call, answer)
        _, running = await asyncio.wait([task], timeout=60)
        assert len(calls) >= nth
        assert not running

    asyncio.run(run())


def test_a_message_that_was_not_handled_comes_again(broker, listen):
    """Acknowledged after the handler, so `kill -9` in between loses nothing; here the handler never ends."""
    address = Broker.parse(broker.url, client_id="again")
    peer = broker.connect()
    stuck = threading.Event()

    async def hang(message):
        stuck.set()
        await asyncio.Event().wait()

    first = listen(address, topic="again/#", handler=hang)
    peer.publish("again/a", "once")
    wait_for(stuck.is_set)
    first.stop()
    again = listen(address, topic="again/#")
    wait_for(lambda: again.heard == [b"once"])
    peer.close()


def test_an_error_in_a_handler_is_counted_and_does_not_end_the_bridge(broker, listen):
    async def fail(message):
        if message.payload == b"bad":
            raise KeyError("label")

    peer = broker.connect()
    listener = listen(Broker.parse(broker.url, client_id="error"), topic="error/#", handler=fail)
    peer.publish("error/a", "bad")
    peer.publish("error/a", "good")
    wait_for(lambda: listener.heard == [b"good"])
    labels = {"source": "test", "outcome": "error"}
    assert listener.telemetry.registry.get_sample_value("not3d_bridge_messages_total", labels) == 1
    peer.close()


def test_nothing_that_waits_for_the_broker_is_left_out(tmp_path, listen):
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    listener = listen(Broker.parse(broker.url))
    broker.stop()
    wait_for(lambda: not listener.connected)
    for number in range(3000):
        listener.retain(f"out/{number % 1500}", f"{number}")
    delivered = [
        asyncio.run_coroutine_threadsafe(listener.mqtt.deliver(f"sent/{number}", f"{number}"), listener._loop)
        for number in range(1500)
    ]
    broker.start()
    peer = broker.connect()
    peer.subscribe("#")
    for each in delivered:
        each.result(120)
    wait_for(lambda: listener.connected)
    wait_for(lambda: peer.on("out/1499"))
    assert all(peer.on(f"out/{number}")[-1] == f"{number + 1500}".encode() for number in range(1500))
    peer.close()
    listener.stop()
    broker.stop()


def test_messages_that_do_not_fit_are_counted_and_told(broker, listen, monkeypatch):
    monkeypatch.setattr("not3d.bridges.mqtt.MAX_QUEUE", 2)
    may_go_on, lost = threading.Event(), []

    async def hang(message):
        while not may_go_on.is_set():
            await asyncio.sleep(0.01)

    listener = listen(Broker.parse(broker.url, client_id="queue"), topic="queue/#", handler=hang)
    listener.mqtt.on_loss(lambda: lost.append(1))
    peer = broker.connect()
    for number in range(10):
        peer.publish("queue/a", f"{number}", qos=0)
    wait_for(lambda: len(lost) >= 7)
    may_go_on.set()
    labels = {"source": "test", "outcome": "overflow"}
    assert listener.telemetry.registry.get_sample_value("not3d_bridge_messages_total", labels) == len(lost)
    peer.close()


def test_a_message_that_cannot_be_kept_is_not_acknowledged(broker, listen):
    async def fail(message):
        raise sqlite3.OperationalError("database or disk is full")

    address = Broker.parse(broker.url, client_id="full")
    peer = broker.connect()
    first = Listener(address, topic="full/#", handler=fail)
    wait_for(lambda: first.connected)
    peer.publish("full/a", "once")
    first.ended.wait(30)
    assert isinstance(first.error, ExceptionGroup)
    again = listen(address, topic="full/#")
    wait_for(lambda: again.heard == [b"once"])
    peer.close()


@pytest.mark.parametrize("url", ["http://host", "mqtt://", "host:1883", "mqtt://host:99999", "mqtt://host/topic"])
def test_a_wrong_url_is_refused_with_the_cure(url):
    with pytest.raises(BrokerError, match="mqtt://host:1883"):
        Broker.parse(url)


def test_the_url_may_hold_user_and_password(tmp_path):
    broker = Broker.parse("mqtt://us%40er:pass%2Fword@[::1]")
    assert (broker.host, broker.port, broker.username, broker.password) == ("::1", 1883, "us@er", "pass/word")
    assert "word" not in repr(broker)
    assert Broker.parse("mqtts://host").port == 8883
    with pytest.raises(BrokerError, match="only used with mqtts"):
        Broker.parse("mqtt://host", ca_file=tmp_path)
    with pytest.raises(BrokerError, match="needs a user"):
        Broker.parse("mqtt://host", password="x")
    with pytest.raises(BrokerError, match="not a file of certificates"):
        Broker.parse("mqtts://host", ca_file=tmp_path / "missing")


@pytest.mark.parametrize("topic", ["a/#/b", "a/b+", "a#", ""])
def test_a_topic_that_no_broker_takes_is_refused_with_the_cure(topic):
    mqtt = Mqtt(Broker.parse("mqtt://host"), Telemetry("test"))
    with pytest.raises(BrokerError, match="is not a topic: "):
        mqtt.subscribe(topic, None)


@pytest.mark.parametrize(
    "reason",
    ["[Errno 104] Connection reset by peer", "Operation timed out", "[SSL: WRONG_VERSION_NUMBER] wrong version number"],
)
def test_tls_at_one_end_only_is_named_as_a_cause(reason):
    """A broker without TLS hangs up on a client with TLS; one with TLS does not answer a client without."""
    assert (
        _with_cure(reason) == f"{reason}: check host and port; a port with TLS needs mqtts://, one without TLS mqtt://"
    )
