#!/usr/bin/env python3
"""Rebuilds from Kafka where every agent stands, how long each state lasted, and what became of every call.

Written from the contract alone: deploy/contract/asyncapi.json says which topic and which headers, the schemas there say
what the data hold. Needs kafka-python, and zstandard for topics that are compressed so.

    consumer.py localhost:9092                 follow the topic
    consumer.py localhost:9092 --once          read what is there, print it and end
    consumer.py localhost:9092 --once --json   the same for programs
"""

import argparse
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

CONTRACT = Path(__file__).resolve().parent.parent / "contract" / "asyncapi.json"
CHANNEL = "kafka-events"
# Ids that are remembered, the newest: what comes again comes soon.
KNOWN_IDS = 100_000
CONNECTING = ("ccrelay.call.established", "ccrelay.chat.established", "ccrelay.call.conferenced")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Agent:
    """One agent: the state, since when, and the seconds that ended states came to."""

    def __init__(self) -> None:
        self.state, self.since, self.reason = "unknown", None, None
        self.seconds = defaultdict(float)

    def follow(self, data: dict, late: bool) -> None:
        """Of an event that comes late, what it says of the state before it is still true, and its own state is over."""
        agent = data["agent"]
        if agent["changed"]:
            self.seconds[agent["previousState"]] += agent.get("previousDurationSeconds", 0.0)
        if late:
            return
        self.state, self.since = agent["state"], agent.get("since")
        self.reason = agent.get("reason")

    def shown(self) -> dict:
        return {"state": self.state, "since": self.since, "reason": self.reason, "seconds": dict(self.seconds)}


class Call:
    """One call at one agent, followed event by event: the summary at its end must say the same."""

    def __init__(self) -> None:
        self.state, self.at = None, None
        self.conferenced, self.left_at = False, None
        self.seconds = defaultdict(float)

    def follow(self, kind: str, state: str, at: datetime) -> None:
        self.conferenced |= kind == "ccrelay.call.conferenced"
        if kind in CONNECTING:
            self.left_at = None
        elif kind == "ccrelay.call.customer-released" and not self.conferenced:
            self.left_at = self.left_at or at
        if state == self.state:
            return
        if self.state is not None:
            # Of two, time counts until the other party has left.
            until = min(at, self.left_at or at)
            self.seconds[self.state] += max(0.0, (until - self.at).total_seconds())
        self.state, self.at = state, at


class Consumer:
    def __init__(self) -> None:
        self.agents, self.calls = defaultdict(Agent), defaultdict(Call)
        self.ended, self.differing = [], []
        self.first_sequence, self.last_sequence = {}, {}
        self.missing, self.repeated, self.late = 0, 0, 0
        self.seen = {}

    def take(self, attributes: dict, data: dict) -> None:
        """One event. The same id means the same event, which may come again at any time. One that was set aside and is delivered
        again comes after events with higher numbers: it fills its gap, and nothing that has come since is undone."""
        if attributes["id"] in self.seen:
            self.repeated += 1
            return
        self.seen[attributes["id"]] = True
        if len(self.seen) > KNOWN_IDS:
            del self.seen[next(iter(self.seen))]
        source, sequence = attributes["source"], int(attributes["sequence"])
        spool = attributes["id"].partition("-")[0]
        late = self.count((source, spool), sequence)
        self.agents[source].follow(data, late)
        call, kind = data.get("call", {}), attributes["type"]
        # Without a state it begins no call, and moves none: it may come after the call's summary.
        if "id" not in call or "state" not in call:
            return
        key = (source, call["id"])
        if kind == "ccrelay.call.ended":
            self.end(key, data)
        elif not late and (key in self.calls or call["state"] != "ended"):
            self.calls[key].follow(kind, call["state"], moment(attributes["time"]))

    def count(self, numbered: tuple, sequence: int) -> bool:
        """Whether it comes late. An agent's numbers start again in a new spool. What came before the first event that was read
        was never missed."""
        first, last = self.first_sequence.setdefault(numbered, sequence), self.last_sequence.get(numbered, sequence - 1)
        self.last_sequence[numbered] = max(sequence, last)
        if sequence > last:
            self.missing += sequence - last - 1
            return False
        self.late += 1
        if sequence > first:
            self.missing = max(0, self.missing - 1)
        return True

    def end(self, key: tuple, data: dict) -> None:
        summary, call, followed = data["summary"], data["call"], self.calls.pop(key, Call())
        # The event that ended it need not name it: the last stretch is told here.
        if "endedAt" in summary:
            followed.follow("ccrelay.call.ended", "ended", moment(summary["endedAt"]))
        self.ended.append({
            "source": key[0], "id": call["id"], "caller": call.get("caller"), "direction": call.get("direction"),
            "outcome": summary["outcome"], "seconds": summary.get("durationSeconds"),
            "answeredAfter": summary.get("answeredAfterSeconds"),
            "talked": summary.get("talkedSeconds"), "held": summary.get("heldSeconds"),
        })
        for state, told in (("connected", summary.get("talkedSeconds")), ("held", summary.get("heldSeconds"))):
            if told is not None and abs(followed.seconds[state] - told) > 0.002:
                self.differing.append({"id": call["id"], "state": state, "told": told, "followed": followed.seconds[state]})

    def shown(self) -> dict:
        return {
            "agents": {source: agent.shown() for source, agent in sorted(self.agents.items())},
            "calls": self.ended, "open": len([call for call in self.calls.values() if call.state != "ended"]),
            "kept": len(self.calls),
            "missing": self.missing, "repeated": self.repeated, "late": self.late, "differing": self.differing,
        }

    def in_words(self) -> str:
        lines = ["agents"]
        for source, agent in sorted(self.agents.items()):
            times = ", ".join(f"{state} {seconds:.0f} s" for state, seconds in agent.seconds.items())
            lines.append(f"  {source}: {agent.state} since {agent.since} ({times})")
        lines.append("calls that ended")
        for call in self.ended:
            lines.append(f"  {call['id']} at {call['source']}: {call['outcome']}, talked {call['talked']} s, held {call['held']} s")
        lines.append(f"missing {self.missing}, repeated {self.repeated}, late {self.late}, summaries that differ {len(self.differing)}")
        return "\n".join(lines)


def decode(message, prefix: str) -> tuple[dict, dict]:
    """Attributes and data, in either content mode."""
    headers = {name: value.decode() for name, value in message.headers}
    payload = json.loads(message.value)
    if headers["content-type"].startswith("application/cloudevents+json"):
        return payload, payload["data"]
    return {name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)}, payload


def main() -> None:
    contract = json.loads(CONTRACT.read_text())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("brokers", help="host:port, with commas between several")
    parser.add_argument("--topic", default=contract["channels"][CHANNEL]["address"])
    parser.add_argument("--once", action="store_true", help="read what is there, print it and end")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    # Attributes are headers whose names begin alike: that of the id shows how.
    required = contract["components"]["schemas"]["kafkaAttributes"]["required"]
    prefix = next(name for name in required if name.endswith("specversion")).removesuffix("specversion")

    reader = KafkaConsumer(bootstrap_servers=arguments.brokers.split(","), group_id=None, enable_auto_commit=False)
    partitions = [TopicPartition(arguments.topic, number) for number in reader.partitions_for_topic(arguments.topic)]
    reader.assign(partitions)
    reader.seek_to_beginning(*partitions)
    ends = reader.end_offsets(partitions)
    consumer = Consumer()

    def at_end() -> bool:
        return all(reader.position(partition) >= end for partition, end in ends.items())

    while not (arguments.once and at_end()):
        for messages in reader.poll(timeout_ms=500).values():
            for message in messages:
                attributes, data = decode(message, prefix)
                # More types may come than this copy of the contract has: they count too.
                if attributes["type"].startswith("ccrelay."):
                    consumer.take(attributes, data)
        if not arguments.once:
            print("\033[2J\033[H" + consumer.in_words(), flush=True)
    print(json.dumps(consumer.shown(), indent=2) if arguments.json else consumer.in_words())


if __name__ == "__main__":
    main()
