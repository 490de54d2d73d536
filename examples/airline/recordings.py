"""The recorded conversations, and the thread that each one is replayed in.

The longest has 15 turns. Longer threads are made of whole recordings, one after the other, starting with any of them
and wrapping around, until there are enough turns. Such a thread has an id of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

DATA = Path(__file__).parent / "data"

THREADS = UUID("255f911a-11e9-4622-9734-cad8ce6b3646")
"""The namespace of thread ids: the id of a thread is the `uuid5` of the conversation's id."""

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
class RecordedCall:
    """A recorded tool call with its result."""

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


@cache
def concatenated(first: int, turns: int) -> Conversation:
    """Join whole recordings, starting with number `first` (0 to 39), until there are `turns` turns or more."""
    parts = [part for _, part in zip(_sizes_before(first, turns), _from(first), strict=False)]
    messages = [_renamed(message, number) for number, part in enumerate(parts, 1) for message in part.messages]
    return Conversation(_concatenation(first, turns), messages)


def replayed_in(thread_id: UUID) -> Conversation:
    """Return the conversation or concatenation that a thread replays. Raises `KeyError` if it replays none."""
    return conversations().get(thread_id) or concatenated(*_concatenations()[thread_id])


def turns_of(conversation: Conversation) -> int:
    """Count the customer's messages."""
    return sum(message["role"] == "user" for message in conversation.messages)


def _from(first: int) -> Sequence[Conversation]:
    """List all recordings, starting with one and wrapping around."""
    ring = [*conversations().values()]
    return [*ring[first:], *ring[:first]]


def _sizes_before(first: int, turns: int) -> Sequence[int]:
    """Count the turns before each recording that is needed."""
    before = accumulate(map(turns_of, _from(first)), initial=0)
    return [size for size in before if size < turns]


def _concatenation(first: int, turns: int) -> str:
    return f"{_from(first)[0].id}+{turns}"


@cache
def _concatenations() -> Mapping[UUID, tuple[int, int]]:
    """List all concatenations: a name-based id does not reveal its name."""
    all_turns = sum(map(turns_of, conversations().values()))
    return {
        uuid5(THREADS, f"{conversation.id}+{turns}"): (first, turns)
        for first, conversation in enumerate(conversations().values())
        for turns in range(1, all_turns + 1)
    }


def _renamed(message: Message, part: int) -> Message:
    """Add the part's number to call ids, because different recordings use the same ids."""
    renamed = dict(message)
    if calls := message.get("tool_calls"):
        renamed["tool_calls"] = [{**call, "id": f"{call['id']}_{part}"} for call in calls]
    if call_id := message.get("tool_call_id"):
        renamed["tool_call_id"] = f"{call_id}_{part}"
    return renamed


def recorded_calls() -> Sequence[RecordedCall]:
    """List every tool call of every conversation."""
    return [*chain.from_iterable(map(recorded_calls_in, conversations().values()))]


def recorded_calls_in(conversation: Conversation) -> Sequence[RecordedCall]:
    """List every tool call of a conversation. Each message has one call at most, and its result is the next message."""
    return [
        RecordedCall(
            conversation.thread_id,
            call["id"],
            call["function"]["name"],
            canonical(json.loads(call["function"]["arguments"])),
            conversation.messages[index + 1]["content"],
        )
        for index, message in enumerate(conversation.messages)
        for call in message.get("tool_calls") or ()
    ]


def canonical(value: Any) -> str:
    """Write a JSON value so that equal values give equal texts, whatever their spacing and order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
