"""A customer who sends the recorded messages over HTTP and prints the answers.

```
python -m examples.airline.customer airline-35-3
```

Each message has its own idempotency key. After a crash of this program or of the server, run it again: finished turns
are answered from the log, and the conversation continues after them.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx

from examples.airline.recordings import Conversation, conversations

WIDTH = 110


def talk(client: httpx.Client, conversation: Conversation) -> Iterator[str]:
    """Send the customer's messages one after the other and yield lines to print."""
    yield f"thread {conversation.thread_id}"
    thread = {"thread_id": str(conversation.thread_id), "graph": "airline"}
    client.post("/v1/threads", json=thread).raise_for_status()
    for number, message in enumerate(conversation.messages):
        if message["role"] != "user":
            continue
        yield shown("customer", message["content"])
        response = client.post(
            f"/v1/threads/{conversation.thread_id}/turns",
            params={"wait": "true"},
            json={"user_input": message["content"]},
            headers={"Idempotency-Key": f"{conversation.id}/{number}"},
        )
        turn = response.raise_for_status().json()
        for answer in turn["messages"]:
            if answer["role"] != "user":
                yield from lines(answer)
        yield f"           ({turn['status']}, checkpoint {turn['checkpoint']})"


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """Format what the agent said and called, or what a tool returned."""
    who = "agent" if answer["role"] == "assistant" else "tool"
    if answer["content"]:
        yield shown(who, answer["content"])
    for call in answer.get("tool_calls") or ():
        yield shown("agent", f"{call['name']} {json.dumps(call['arguments'])}")


def shown(who: str, text: str) -> str:
    """Format a text as one line."""
    line = " ".join(text.split())
    return f"{who:>8} | {line if len(line) <= WIDTH else line[: WIDTH - 1] + '…'}"


def main() -> None:
    """Play one conversation."""
    by_name = {conversation.id: conversation for conversation in conversations().values()}
    parser = argparse.ArgumentParser(description="Send the customer's messages of a recorded conversation.")
    parser.add_argument("conversation", choices=sorted(by_name), metavar="conversation", help="such as airline-35-3")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where Threadfold serves")
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.url, timeout=120, trust_env=False) as client:
        for line in talk(client, by_name[arguments.conversation]):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
