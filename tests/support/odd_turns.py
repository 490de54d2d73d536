"""Plays an odd answer in a thread of the running application, and then three turns that have to succeed."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.assistant import EDGES, NODES
from domain.agents.graph import Graph, RetryPolicy
from domain.agents.tools import tool
from tests.fakes.odd_answers import ERROR, Ends, Odd
from tests.fakes.strict_model import CALL_ECHO, Played, StrictModel
from tests.support.http import Api


@tool(idempotent=True)
async def echo(text: str = "") -> str:
    """Say a text again."""
    return f"echo[{text}]"


@tool(idempotent=True)
async def now() -> str:
    """Say what time it is."""
    return "noon"


@tool(idempotent=True)
async def store(data: dict[str, Any]) -> str:
    """Store an object."""
    return f"stored {len(data)}"


# The built-in agent, which waits less before it tries again.
_nodes = [replace(node, retry=RetryPolicy(node.retry.attempts, first_delay=0.01)) for node in NODES]
odd = Agent(Graph("odd", "route_intent", _nodes, EDGES), tools=[echo, now, store])

NEXT = {"and now?": "You said: and now?", CALL_ECHO: "The tool said: echo[b]", "thank you": "You said: thank you"}
"""What the user says in the next three turns, and how the answers end: the last words may be a part of a message."""


class Record(Struct, frozen=True):
    """An odd turn and what followed. `turns` are as the application answered them, the odd one first."""

    odd: Odd
    turns: Sequence[dict[str, Any]]
    messages: Sequence[dict[str, Any]]
    asked: int
    refused: Sequence[Sequence[str]]


async def play(api: Api, model: StrictModel, odd_answer: Odd, played: Sequence[Played] | None = None) -> Record:
    """Play an odd answer and three turns more; `played` is the answer in another form."""
    thread = await api.opened(thread_id=str(uuid4()), graph="odd")
    model.demand(thread, odd_answer.own_fields, _wants_back(odd_answer.own_fields))
    model.script(thread, *(played or odd_answer.played), repeat=odd_answer.repeat)
    turns = [await _turn(api, thread, "go")]
    asked = len(model.requests[thread])
    model.script(thread)
    turns += [await _turn(api, thread, said) for said in NEXT]
    page = await api.get(f"/v1/threads/{thread}/messages", params={"limit": 500})
    return Record(odd_answer, turns, page.json()["items"], asked, model.refused[thread])


async def _turn(api: Api, thread: str, said: str) -> dict[str, Any]:
    response = await api.turn(thread, said)
    assert response.status_code == 200, response.text
    return dict(response.json())


def _wants_back(fields: Sequence[str]) -> Any:
    """Make a check for an endpoint that refuses prompts in which a call comes without what it sent along."""

    def check(body: dict[str, Any]) -> list[str]:
        first: dict[str, Any] = next((message for message in body["messages"] if message["role"] == "assistant"), {})
        text = json.dumps(first) if first.get("tool_calls") else ""
        return [f"{field} is missing where it was sent" for field in fields if text and f'"{field}"' not in text]

    return check


def faults(record: Record) -> list[str]:
    """Say what is not as it has to be."""
    found = [f"the endpoint refused a prompt: {'; '.join(wrong)}"[:400] for wrong in record.refused[:1]]
    found += _ending(record.odd.ends, record.turns[0], record.asked)
    for (said, answer), turn in zip(NEXT.items(), record.turns[1:], strict=True):
        if not _answered(turn) or turn["answer"][-len(said) :] != answer[-len(said) :]:
            found.append(f"the next turn, {said!r}, ended as {_ended(turn)}")
    if record.odd.asks is not None and record.asked != record.odd.asks:
        found.append(f"the model was asked {record.asked} times, not {record.odd.asks}")
    return found + _transcript(record)


def _ending(ends: Ends, turn: dict[str, Any], asked: int) -> list[str]:
    answered, explained = _answered(turn), turn["reason"] is not None
    right = {
        Ends.ANSWERED: answered,
        Ends.EXPLAINED: explained,
        Ends.TOLD: explained or answered,
        Ends.MENDED: explained or (answered and asked > 1),
        Ends.FAILED: turn["status"] == "failed" and explained and bool(turn["detail"]),
    }
    return [] if right[ends] else [f"the odd turn, asked {asked} times, ended as {_ended(turn)}, not {ends.name}"]


def _answered(turn: dict[str, Any]) -> bool:
    return (turn["status"], turn["reason"]) == ("completed", None) and bool((turn["answer"] or "").strip())


def _ended(turn: dict[str, Any]) -> str:
    detail = (turn["detail"] or "")[:200]
    return f"{turn['status']} {turn['reason']} with the answer {str(turn['answer'])[:80]!r} ({detail})"


def _transcript(record: Record) -> list[str]:
    """Say what the transcript does not show."""
    text = json.dumps(record.messages, ensure_ascii=False)
    users = [message["content"] for message in record.messages if message["role"] == "user"]
    found = [] if users == ["go", *NEXT] else [f"the transcript's users said {users}"]
    found += [f"the transcript does not show {shown[:80]!r}" for shown in record.odd.shows if shown not in text]
    if record.odd.told is None:
        return found
    results = [message for message in record.turns[0]["messages"] if message["role"] == "tool"]
    if len(results) != len(record.odd.told):
        return [*found, f"{len(results)} results of calls, not {len(record.odd.told)}"]
    for result, told in zip(results, record.odd.told, strict=True):
        fits = result["outcome"] != "succeeded" if told == ERROR else told in result["content"]
        if not fits:
            found.append(f"the result of {result['name'][:40]!r} is {result['content'][:80]!r}, not {told}")
    return found
