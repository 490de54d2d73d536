"""What is said in every conversation: real questions, tool results and answers, the same for every contestant.

They are the customers' messages of the airline's recordings (see examples/airline/README.md for their origin and
licence) that a tool was asked for: what the customer said, the first tool call that followed, and what the agent
said in the end. A conversation goes through them again and again, each from another place on, so that no two
conversations are in step; a number in front makes each question another one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from examples.airline.recordings import Message, conversations


@dataclass(frozen=True)
class Exchange:
    """One turn: what the customer says, the tool and its result, and the answer."""

    question: str
    tool: str
    arguments: Mapping[str, Any]
    result: str
    answer: str
    prompt_tokens: int = 1500
    completion_tokens: int = 60


@cache
def exchanges() -> Sequence[Exchange]:
    """List all turns of the recordings in which a tool is asked for."""
    return [
        exchange
        for conversation in conversations().values()
        for turn in _turns(conversation.messages)
        if (exchange := _exchange(turn)) is not None
    ]


def said(thread: int, turn: int) -> str:
    """Return what the customer of a conversation says in a turn. Both are counted from 0."""
    place = (thread * 7 + turn) % len(exchanges())
    return f"[{place}.{turn}] {exchanges()[place].question}"


def exchange_of(question: str) -> Exchange:
    """Find the exchange that `said` has made a question of."""
    return exchanges()[int(question[1 : question.index(".")])]


def _turns(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    turn: list[Message] = []
    for message in messages:
        if message["role"] == "user" and turn:
            yield turn
            turn = []
        turn.append(message)
    yield turn


def _exchange(turn: Sequence[Message]) -> Exchange | None:
    asked = next((place for place, message in enumerate(turn) if message.get("tool_calls")), None)
    answer = turn[-1].get("content")
    if asked is None or turn[0]["role"] != "user" or turn[-1]["role"] != "assistant" or not answer:
        return None
    call = turn[asked]["tool_calls"][0]["function"]
    result = turn[asked + 1]["content"]
    return Exchange(turn[0]["content"], call["name"], json.loads(call["arguments"]), result, answer)
