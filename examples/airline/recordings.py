"""The recorded conversations, and the thread that each one is replayed in.

The longest has 15 turns. For longer threads recordings are put one behind the other: as many whole ones, from any of
them on and around, as it takes to have so many turns. Such a thread has an id of its own, too.
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


@cache
def concatenated(first: int, turns: int) -> Conversation:
    """Put whole recordings behind one another, from the `first` one (0 to 39) on, until there are so many turns."""
    parts = [part for _, part in zip(_sizes_before(first, turns), _from(first), strict=False)]
    messages = [_renamed(message, number) for number, part in enumerate(parts, 1) for message in part.messages]
    return Conversation(_concatenation(first, turns), messages)


def replayed_in(thread_id: UUID) -> Conversation:
    """Return the conversation, or the concatenation, that a thread is a replay of. Raise `KeyError` if it is none."""
    return conversations().get(thread_id) or concatenated(*_concatenations()[thread_id])


def turns_of(conversation: Conversation) -> int:
    """Count what the customer says."""
    return sum(message["role"] == "user" for message in conversation.messages)


def _from(first: int) -> Sequence[Conversation]:
    """List all recordings, from one on and around."""
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
    """Name all that there can be: a name-based id does not tell what it was made of."""
    all_turns = sum(map(turns_of, conversations().values()))
    return {
        uuid5(THREADS, f"{conversation.id}+{turns}"): (first, turns)
        for first, conversation in enumerate(conversations().values())
        for turns in range(1, all_turns + 1)
    }


def _renamed(message: Message, part: int) -> Message:
    """Make the ids of calls the part's own: different recordings use the same ones."""
    renamed = dict(message)
    if calls := message.get("tool_calls"):
        renamed["tool_calls"] = [{**call, "id": f"{call['id']}_{part}"} for call in calls]
    if call_id := message.get("tool_call_id"):
        renamed["tool_call_id"] = f"{call_id}_{part}"
    return renamed


def told() -> Sequence[Told]:
    """List every tool call of every conversation."""
    return [*chain.from_iterable(map(told_in, conversations().values()))]


def told_in(conversation: Conversation) -> Sequence[Told]:
    """List every tool call of a conversation. Here each message asks for one call, and its result is next."""
    return [
        Told(
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
    """Write a JSON value so that equal values are equal texts, however they were spaced and ordered."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
