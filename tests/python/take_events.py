"""Gives events to the consumer of deploy/examples, one JSON object a line with `attributes` and `data`, and prints what it shows."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "examples"))
# No compiled copy beside the example.
sys.dont_write_bytecode = True

from consumer import Consumer  # noqa: E402


def main() -> None:
    consumer = Consumer()
    for line in sys.stdin:
        event = json.loads(line)
        consumer.take(event["attributes"], event["data"])
    print(json.dumps(consumer.shown()))


main()
