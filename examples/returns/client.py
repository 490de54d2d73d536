"""A customer's client: `python -m examples.returns.client http://127.0.0.1:8000 mia`. Each line is a message."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

CLEAR = "\r\033[K"
"""Clears the line, for the whole message to replace what was streamed of it."""


def events(http: httpx.Client, thread: str) -> Iterator[tuple[str, Any]]:
    """Yield each event of a thread once, and the text that is being written. Connects again when it is cut off."""
    kind, seen = "", "0"
    while True:
        try:
            with http.stream("GET", f"/v1/threads/{thread}/stream", headers={"Last-Event-ID": seen}) as stream:
                for field, _, value in (line.partition(": ") for line in stream.iter_lines()):
                    kind, seen = value if field == "event" else kind, value if field == "id" else seen
                    if field == "data":
                        yield kind, json.loads(value)
        except httpx.TransportError:
            time.sleep(1)


def main(url: str, customer: str) -> None:
    """Open a thread with a budget, send each line of input, and print what the desk says."""
    http = httpx.Client(base_url=url, timeout=60)
    thread = http.post("/v1/threads", json={"graph": "returns", "subject": customer}).json()["thread_id"]
    http.put(f"/v1/threads/{thread}/budget", json={"limits": [{"window": "turn", "tokens": 20_000}]}).raise_for_status()
    following = events(http, thread)
    for said in sys.stdin:
        http.post(f"/v1/threads/{thread}/turns", json={"user_input": said.strip()}).raise_for_status()
        for kind, data in following:
            match kind, data.get("data"):
                case "delta" | "withdrawn", _:
                    print(data.get("text", CLEAR), end="", flush=True)
                case "MessageAppended", {"role": "assistant", "content": str(content)}:
                    print(CLEAR + content, flush=True)
                case ("TurnCompleted" | "TurnFailed" | "TurnCancelled", _) | ("QuestionAsked", {"to": "customer"}):
                    break


if __name__ == "__main__":
    main(*sys.argv[1:])
