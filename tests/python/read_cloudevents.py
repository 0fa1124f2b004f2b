"""Reads messages as the Python SDK of CloudEvents does, and says what it has read.

From standard input, one JSON object a line: `from` (kafka or mqtt), `headers` (names and texts), `key`, `payload` (Base64).
To standard output, one a line: the attributes and the data as the SDK understands them. Whatever it refuses ends this with
its complaint.
"""

import base64
import json
import sys
from datetime import datetime, timezone

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

FORMAT = JSONFormat()


def from_mqtt(headers: dict[str, str], payload: bytes) -> CloudEvent:
    """By the MQTT protocol binding, for which the SDK has nothing: its own reading of JSON and its own checks of attributes."""
    content_type = headers.pop("content-type")
    if content_type.startswith("application/cloudevents+json"):
        return FORMAT.read(CloudEvent, payload)
    attributes = dict(headers, datacontenttype=content_type)
    attributes["time"] = datetime.fromisoformat(attributes["time"])
    return CloudEvent(attributes, FORMAT.read_data(payload, content_type))


def read(message: dict) -> CloudEvent:
    headers, payload = dict(message["headers"]), base64.b64decode(message["payload"])
    if message["from"] == "mqtt":
        return from_mqtt(headers, payload)
    as_bytes = {name: text.encode() for name, text in headers.items()}
    event = from_kafka(KafkaMessage(as_bytes, message["key"].encode(), payload), FORMAT, CloudEvent)
    assert isinstance(event, CloudEvent)
    return event


def written(value):
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def main() -> None:
    for line in sys.stdin:
        event = read(json.loads(line))
        attributes = {name: written(value) for name, value in event.get_attributes().items()}
        print(json.dumps({"attributes": attributes, "data": event.get_data()}))


main()
