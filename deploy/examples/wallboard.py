#!/usr/bin/env python3
"""A live wallboard from what an MQTT broker retains: where every agent stands. It needs no history and no database.

Written from the contract alone: deploy/contract/asyncapi.json names the topic, the schema agent-state says what is there.
The MQTT sink of ccrelay needs state_topic. Needs paho-mqtt.

    wallboard.py localhost 1883                 live, until it is interrupted
    wallboard.py localhost 1883 --once --json   what is retained now, for programs
"""

import argparse
import json
import re
import threading
from collections import Counter
from pathlib import Path

import paho.mqtt.client as mqtt

CONTRACT = Path(__file__).resolve().parent.parent / "contract" / "asyncapi.json"
CHANNEL = "mqtt-agent-state"
# After so many seconds without a message all that is retained has come.
QUIET_SECS = 1.0


class Wallboard:
    def __init__(self, address: str) -> None:
        # Parameters in braces are one level each.
        self.filter = re.sub(r"\{[^}]*\}", "+", address)
        self.agents, self.changed, self.subscribed = {}, threading.Event(), threading.Event()

    def on_connect(self, client, *_) -> None:
        self.agents.clear()
        client.subscribe(self.filter, qos=1)

    def on_subscribe(self, *_) -> None:
        self.subscribed.set()
        self.changed.set()

    def on_message(self, _client, _userdata, message) -> None:
        """An empty message clears the topic: the agent is signed out."""
        if message.payload:
            self.agents[message.topic] = json.loads(message.payload)
        else:
            self.agents.pop(message.topic, None)
        self.changed.set()

    def shown(self) -> dict:
        agents = sorted(self.agents.values(), key=lambda agent: (agent["gateway"], agent["id"]))
        return {"agents": agents, "states": dict(Counter(agent["state"] for agent in agents))}

    def in_words(self) -> str:
        shown = self.shown()
        lines = ["  ".join(f"{state}: {count}" for state, count in sorted(shown["states"].items())) or "nobody is signed in"]
        for agent in shown["agents"]:
            lines.append(f"  {agent['gateway']}/{agent['id']:<10} {agent['state']:<18} since {agent.get('since', '?')}")
        return "\n".join(lines)


def main() -> None:
    address = json.loads(CONTRACT.read_text())["channels"][CHANNEL]["address"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int, nargs="?", default=1883)
    parser.add_argument("--topic", default=address, help="state_topic of the sink")
    parser.add_argument("--once", action="store_true", help="print what is retained now and end")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    board = Wallboard(arguments.topic)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect, client.on_subscribe, client.on_message = board.on_connect, board.on_subscribe, board.on_message
    client.connect(arguments.host, arguments.port)
    client.loop_start()
    try:
        if arguments.once:
            if not board.subscribed.wait(30):
                raise SystemExit("the broker has not answered")
            while board.changed.wait(QUIET_SECS):
                board.changed.clear()
            print(json.dumps(board.shown(), indent=2) if arguments.json else board.in_words())
        else:
            while True:
                board.changed.wait()
                board.changed.clear()
                print(json.dumps(board.shown()) if arguments.json else "\033[2J\033[H" + board.in_words(), flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        client.loop_stop()


if __name__ == "__main__":
    main()
