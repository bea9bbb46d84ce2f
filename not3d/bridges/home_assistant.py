"""Announces entities to Home Assistant by its MQTT discovery.

One device has an event for each camera, and a sensor and a picture for each watchlist. An entity is announced by a
retained message on `PREFIX/COMPONENT/OBJECT/config`, and removed by an empty one. Its `unique_id` stays the same over
restarts, so names and automations of the user stay with it.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NOBODY = "nobody"
MATCH = "match"


@dataclass(frozen=True)
class Topics:
    """The topics of one bridge.

    Attributes:
        base: first part of all topics, such as `not3d`.
        source: name of the source, such as `frigate`.
        discovery: Home Assistant's `discovery_prefix`.
    """

    base: str = "not3d"
    source: str = "frigate"
    discovery: str = "homeassistant"

    @property
    def status(self) -> str:
        """Retained: `online` or `offline`."""
        return f"{self.base}/{self.source}/status"

    def match(self, camera: str) -> str:
        """Where else a person of this camera was seen; not retained."""
        return f"{self.base}/{self.source}/{level(camera)}/match"

    def watchlist(self, name: str, part: str) -> str:
        """`state`, `attributes` or `image` of a watchlist; all are retained, the image while someone is present."""
        return f"{self.base}/watchlist/{level(name)}/{part}"

    def alert(self, name: str) -> str:
        """Each alert of a watchlist; not retained."""
        return f"{self.base}/watchlist/{level(name)}/alert"

    def config(self, component: str, entity: str) -> str:
        """Where an entity is announced."""
        return f"{self.discovery}/{component}/{object_id(entity)}/config"


def level(name: str) -> str:
    """Return a name as one level of a topic: `/`, `+`, `#` and control characters have a meaning there."""
    return re.sub(r"[/+#\x00-\x1f\x7f]", "_", name) or "_"


def object_id(name: str) -> str:
    """Return a name in the alphabet of Home Assistant's object ids; two names never get the same."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def announce_camera(topics: Topics, camera: str) -> tuple[str, str]:
    """Return topic and message that announce the event entity of a camera."""
    entity = f"{topics.base}_{topics.source}_{camera}_match"
    config = {
        "name": f"{camera} seen elsewhere",
        "event_types": [MATCH],
        "state_topic": topics.match(camera),
        "icon": "mdi:account-search",
    }
    return topics.config("event", entity), _config(topics, "event", entity, config)


def announce_watchlist(topics: Topics, name: str) -> tuple[str, str]:
    """Return topic and message that announce the sensor of a watchlist."""
    entity = f"{topics.base}_watchlist_{name}"
    sensor = {
        "name": name,
        "state_topic": topics.watchlist(name, "state"),
        "json_attributes_topic": topics.watchlist(name, "attributes"),
        "icon": "mdi:account-eye",
    }
    return topics.config("sensor", entity), _config(topics, "sensor", entity, sensor)


def announce_picture(topics: Topics, name: str) -> tuple[str, str]:
    """Return topic and message that announce the picture of a watchlist.

    It is unavailable while nobody is present: Home Assistant answers 500 for an image entity without a picture.
    """
    entity = f"{topics.base}_watchlist_{name}_image"
    present = f"{{{{ 'offline' if value == '{NOBODY}' else 'online' }}}}"
    image = {
        "name": f"{name} last seen",
        "image_topic": topics.watchlist(name, "image"),
        "content_type": "image/jpeg",
        "availability": [
            {"topic": topics.status},
            {"topic": topics.watchlist(name, "state"), "value_template": present},
        ],
        "availability_mode": "all",
    }
    return topics.config("image", entity), _config(topics, "image", entity, image)


def remove_watchlist(topics: Topics, name: str) -> list[tuple[str, str]]:
    """Return topics and empty messages that remove a watchlist with all that is retained of it."""
    announced = announce_watchlist(topics, name)[0], announce_picture(topics, name)[0]
    retained = [topics.watchlist(name, part) for part in ("state", "attributes", "image")]
    return [(topic, "") for topic in (*announced, *retained)]


def _config(topics: Topics, component: str, entity: str, fields: dict[str, Any]) -> str:
    device = {
        "identifiers": [f"{topics.base}_{topics.source}"],
        "name": f"{topics.base} {topics.source}",
        "manufacturer": "not3d",
        "model": "Person re-identification",
        "sw_version": _version(),
    }
    common = {
        "unique_id": object_id(entity),
        # What `object_id` was before Home Assistant 2025.10; older versions ignore it.
        "default_entity_id": f"{component}.{object_id(entity).lower().replace('-', '_')}",
        **({} if "availability" in fields else {"availability_topic": topics.status}),
        "qos": 1,
        "device": device,
        "origin": {"name": "not3d", "sw_version": _version()},
    }
    return json.dumps(fields | common)


def _version() -> str:
    try:
        return version("not3d")
    except PackageNotFoundError:
        return "not installed"
