"""What is announced keeps the rules of Home Assistant's MQTT integration: its schemas for discovery, as of 2026.2.

Home Assistant leaves out an entity that breaks a rule and says so in its log only.
"""

import json
import re

import pytest

from not3d.bridges.home_assistant import Topics, announce_camera, announce_picture, announce_watchlist

COMMON = {
    "name", "icon", "qos", "encoding", "unique_id", "default_entity_id", "device", "origin", "enabled_by_default",
    "entity_category", "entity_picture", "availability", "availability_topic", "availability_mode",
    "availability_template", "payload_available", "payload_not_available", "json_attributes_topic",
    "json_attributes_template",
}  # fmt: skip
OPTIONAL = {
    "event": {"value_template", "device_class"},
    "sensor": {
        "value_template", "device_class", "expire_after", "force_update", "options", "state_class",
        "unit_of_measurement", "suggested_display_precision", "last_reset_value_template",
    },
    "image": {"content_type", "image_encoding"},
}  # fmt: skip
REQUIRED = {"event": {"state_topic", "event_types"}, "sensor": {"state_topic"}, "image": {"image_topic"}}
DEVICE = {
    "identifiers", "connections", "name", "manufacturer", "model", "model_id", "sw_version", "hw_version",
    "serial_number", "suggested_area", "via_device", "configuration_url",
}  # fmt: skip
NAMES = ["yard", "Front-Door 2", "hof tür", "a/b+c#", "a.b", "case-", "_", "東門", "x" * 200]


@pytest.mark.parametrize("announce", [announce_camera, announce_watchlist, announce_picture])
@pytest.mark.parametrize("topics", [Topics(), Topics("Site-A", "frigate", "ha")], ids=["default", "other"])
def test_an_announcement_keeps_the_rules_of_home_assistant(announce, topics):
    seen = set()
    for name in NAMES:
        topic, message = announce(topics, name)
        found = re.fullmatch(rf"{topics.discovery}/(event|sensor|image)/([a-zA-Z0-9_-]+)/config", topic)
        assert found, topic
        component, entity = found[1], json.loads(message)
        assert entity.keys() - COMMON - OPTIONAL[component] == REQUIRED[component]
        assert re.fullmatch(rf"{component}\.[0-9a-z_]+", entity["default_entity_id"])
        assert len(entity["default_entity_id"]) <= 255
        assert re.fullmatch(r"mdi:[a-z-]+", entity.get("icon", "mdi:x"))
        assert entity["qos"] in {0, 1, 2}
        assert entity["device"].keys() <= DEVICE
        assert entity["device"]["identifiers"]
        assert entity["origin"]["name"]
        assert ("availability" in entity) != ("availability_topic" in entity)
        topics_of = [value for key, value in entity.items() if key.endswith("_topic")]
        topics_of += [each["topic"] for each in entity.get("availability", ())]
        assert topics.status in topics_of
        assert not [each for each in topics_of if re.search(r"[+#\x00-\x1f]", each) or len(each.encode()) > 65_535]
        seen.add((topic, entity["unique_id"], entity["default_entity_id"]))
    for part in zip(*seen, strict=True):
        assert len(set(part)) == len(NAMES)
