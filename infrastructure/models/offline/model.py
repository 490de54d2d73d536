"""The built-in model, which needs no network and no key: a few rules, and it says so.

The whole backend can be tried, tested and measured with it. It calls the built-in tools, reports their results,
remembers what is in the prompt, and answers the same to the same prompt. Where JSON is asked for, its answer fits the
schema: see `structured.py`.

Its input comes from users, and it runs in the event loop. So each pattern takes linear time: where two repetitions
could match the same characters, the first is possessive (`*+`, `++`).
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from domain.application.turns.ask_model import CORRECTION
from domain.json import JsonObject
from domain.models.chat import ChatAnswer, ChatMessage, ChatRequest, OnDelta, ToolCall, Usage
from domain.ports.tokens import TokenCounter
from domain.prompt.application_context import without_block
from domain.prompt.summary import INSTRUCTIONS, cut
from infrastructure.models.offline.extract import extracted
from infrastructure.models.offline.structured import structured
from infrastructure.tools.arithmetic import MAX_LENGTH

NAME = "threadfold-offline"
WHO = "I am Threadfold's built-in offline model, a handful of rules and no language model."
MAX_QUOTED_CHARS = 200
MAX_SUMS = 5
MAX_QUERY_CHARS = 500

_TIME = re.compile(r"\bwhat(?:'s| is)? (?:the )?time\b|\bwhat time\b|\bcurrent time\b|\btime is it\b", re.IGNORECASE)
_ZONE = re.compile(r"\bin ([A-Z][A-Za-z]{1,31}(?:/[A-Z][A-Za-z_]{1,31}){1,2}|UTC)\b")
_SUM = re.compile(r"(?:(?:sqrt|abs|round|min|max)\s*+\(|[\d.,()+\-*/%^\s]++)+")
_OPERATION = re.compile(r"[\d)]\s*+[-+*/%^]++\s*+[-+(]*+\s*+[\d.a-z]|[a-z]\s*+\(\s*+-?[\d.]")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?")
_LOOK_UP = re.compile(
    r"\b(?:look up|search (?:the docs )?for|what do the docs say (?:about|on))\s++(\S.*)", re.IGNORECASE
)
_NAME = re.compile(r"\bmy name is (\w[\w'-]*+)", re.IGNORECASE)
_ASKS_NAME = re.compile(r"\b(?:what(?:'s| is) my name|who am i|my name\?)", re.IGNORECASE)
_ASKS_FIRST = re.compile(r"\bwhat (?:did i|have i|was it i) (?:say|said|ask|asked|tell you|write)\b", re.IGNORECASE)

_CORRECTED = CORRECTION.partition("{")[0]
"""How the message begins that asks for a typed answer again."""

_WORD = re.compile(r"\s*+\S++|\s++\Z")


class OfflineModel:
    """Implements `domain.models.chat.ChatModel` with rules. `counter` counts the usage."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Call the tools that the last user message needs, or answer it word by word, or summarise."""
        messages = request.messages
        if request.output is not None and messages and (messages[-1].content or "").startswith(_CORRECTED):
            messages = messages[:-2]  # the same question, and so the same answer: rules do not learn
        asked, results = _turn(messages)
        needed = () if results else tuple(_needed_calls(asked, {spec.name for spec in request.tools}))
        calls = tuple(ToolCall(f"call_{n}", name, given) for n, (name, given) in enumerate(needed, 1))
        text = "" if calls else _answer(asked, results, request)
        if request.messages and request.messages[0].content == INSTRUCTIONS:
            text = extracted(asked)
        if on_delta is not None:
            for word in _WORD.findall(text):
                on_delta(word)
                await asyncio.sleep(0)
        return ChatAnswer(
            content=None if calls else text,
            tool_calls=calls,
            finish_reason="tool_calls" if calls else "stop",
            model=request.model or NAME,
            usage=Usage(self._count(request.messages), self._count([ChatMessage("assistant", text, calls)])),
        )

    def _count(self, messages: Sequence[ChatMessage]) -> int:
        calls = [call for message in messages for call in message.tool_calls]
        written = [f"{call.name} {msgspec.json.encode(call.arguments).decode()}" for call in calls]
        return sum(self._counter.count(text) for text in (*(m.content or "" for m in messages), *written))


def _turn(messages: Sequence[ChatMessage]) -> tuple[str, list[tuple[str, str]]]:
    """Return the last user message, and the name and result of each tool that has run since."""
    start = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    asked = without_block(messages[start].content or "") if start >= 0 else ""
    since = messages[start + 1 :]
    names = {call.id: call.name for message in since for call in message.tool_calls}
    results = [
        (message.name or names.get(message.tool_call_id or "", "The tool"), message.content or "")
        for message in since
        if message.role == "tool"
    ]
    return asked, results


def _needed_calls(asked: str, offered: set[str]) -> Iterable[tuple[str, JsonObject]]:
    if "current_time" in offered and _TIME.search(asked):
        zone = _ZONE.search(asked)
        yield "current_time", {"timezone": zone[1]} if zone else {}
    looked_up = _LOOK_UP.search(asked)
    if "look_up" in offered and looked_up:
        yield "look_up", {"query": looked_up[1].rstrip(" ?.!")[:MAX_QUERY_CHARS]}
    if "calculate" in offered and not looked_up:
        found = (some[0].strip(" \t\r\n.,") for some in _SUM.finditer(_DATE.sub("?", asked)))
        sums = (some for some in found if len(some) <= MAX_LENGTH and _OPERATION.search(some))
        yield from (("calculate", {"expression": some}) for some in islice(sums, MAX_SUMS))


def _answer(asked: str, results: Sequence[tuple[str, str]], request: ChatRequest) -> str:
    messages = request.messages
    if request.output is not None:
        return structured(request.output.schema, "\n".join((asked, *(result for _, result in results))))
    if results:
        return "\n".join(f"{name} says: {result}" for name, result in results)
    said = [without_block(message.content or "") for message in messages if message.role == "user"]
    if _ASKS_NAME.search(asked):
        names = [name for m in messages if m.role != "assistant" for name in _NAME.findall(m.content or "")]
        return f"Your name is {names[-1]}." if names else "You have not told me your name, as far as I can see."
    if request.question:
        return f"{WHO} The question was: “{_quote(asked)}” Set LLM_ENDPOINT to ask a language model."
    earlier = len(said[:-1])
    count = {0: "no earlier message", 1: "1 earlier message"}.get(earlier, f"{earlier} earlier messages")
    if _ASKS_FIRST.search(asked):
        first = f" The first one in view is: “{_quote(said[0])}”" if earlier else ""
        return f"I can see {count} of yours.{first}"
    told = f" You said: “{_quote(asked)}”" if asked else ""
    return f"{WHO}{told} I can see {count} of yours. Set LLM_ENDPOINT to talk to a language model."


def _quote(text: str) -> str:
    return cut(" ".join(text.split()), MAX_QUOTED_CHARS)
