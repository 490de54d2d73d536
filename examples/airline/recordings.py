"""The recorded conversations, and the thread that each one is replayed in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

DATA = Path(__file__).parent / "data"

THREADS = UUID("255f911a-11e9-4622-9734-cad8ce6b3646")
"""A conversation's thread is named by its id within this namespace."""

Message = Mapping[str, Any]
"""A message in the format of OpenAI's chat completions."""


@dataclass(frozen=True)
class Conversation:
    """One recorded conversation, without its system prompt."""

    id: str
    messages: Sequence[Message]

    @property
    def thread_id(self) -> UUID:
        """The thread to replay it in."""
        return uuid5(THREADS, self.id)


@dataclass(frozen=True)
class Told:
    """A recorded tool call, with what the tool told the model."""

    thread_id: UUID
    call_id: str
    name: str
    arguments: str
    """See `canonical`."""
    content: str


@cache
def conversations() -> Mapping[UUID, Conversation]:
    """Read all conversations, by the threads that they are replayed in."""
    with (DATA / "conversations.jsonl").open(encoding="utf-8") as lines:
        read = [Conversation(**json.loads(line)) for line in lines]
    return {conversation.thread_id: conversation for conversation in read}


def told() -> Sequence[Told]:
    """List every tool call of every conversation. Here each message asks for one call, and its result is next."""
    return [
        Told(
            conversation.thread_id,
            call["id"],
            call["function"]["name"],
            canonical(json.loads(call["function"]["arguments"])),
            conversation.messages[index + 1]["content"],
        )
        for conversation in conversations().values()
        for index, message in enumerate(conversation.messages)
        for call in message.get("tool_calls") or ()
    ]


def canonical(value: Any) -> str:
    """Write a JSON value so that equal values are equal texts, however they were spaced and ordered."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
