"""Frigate's tracked people as tracklets, and what the service finds back to MQTT.

events    what Frigate says about one tracked object, by MQTT and by HTTP
api       Frigate's HTTP API, with and without login
source    from events to tracklets: collects boxes, waits for the recordings, fetches and cuts
backfill  what happened while the bridge was away
results   matches and alerts to MQTT, for Home Assistant, and back to Frigate
"""
