"""The scripted model of a test."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from msgspec import Struct
from pydantic import BaseModel

from domain.json import Json, JsonObject
from domain.models.chat import ChatAnswer, ChatRequest, OnDelta, ToolCall, Usage
from domain.prompt.summary import INSTRUCTIONS
from domain.thread.codec import to_json


class Call(Struct, frozen=True):
    """A tool call that the scripted model makes."""

    tool: str
    arguments: JsonObject


def call(tool: str, /, **arguments: Json) -> Call:
    """Return a line of a script in which the model calls a tool."""
    return Call(tool, arguments)


class Prompt(Struct, frozen=True):
    """What the scripted model was asked: the system text, the last message, all messages, and the tools' names.

    `is_question` is True for `turn.ask` and `item.ask`, which are not part of the conversation.
    """

    system: str
    last: str
    messages: Sequence[tuple[str, str]]
    """Pairs of a role and a text."""
    tools: Sequence[str]
    is_question: bool


Answer: TypeAlias = str | Call | Sequence[Call] | JsonObject | BaseModel | Exception
Line: TypeAlias = Answer | Callable[[Prompt], Answer]
"""What the model does next: says a text, or JSON for a typed `ask` (an object, or a pydantic model); makes one or
several calls; raises an error; or what a function of the prompt returns."""


class Script:
    """A model that follows a script, one line for each call. `prompts` is what it was asked.

    Once its lines are used up it repeats `otherwise`. Without one, the test fails.
    """

    def __init__(self, *lines: Line, otherwise: Line | None = None) -> None:
        self.prompts: list[Prompt] = []
        self._missing: list[str] = []
        self._lines, self._otherwise = list(lines), otherwise

    @property
    def left(self) -> int:
        """The number of lines that were not used."""
        return len(self._lines)

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Answer with the next line."""
        if request.messages[0].content == INSTRUCTIONS:
            return _answer("{}", len(self.prompts))
        prompt = _prompt(request)
        self.prompts.append(prompt)
        if not self._lines and self._otherwise is None:
            self._missing.append(prompt.last)
            self.check()
        line = self._lines.pop(0) if self._lines else self._otherwise
        if callable(line):
            line = line(prompt)
        if isinstance(line, Exception):
            raise line
        answer = _answer(line or "", len(self.prompts))
        if on_delta and answer.content:
            on_delta(answer.content)
        return answer

    def check(self) -> None:
        """Raise `AssertionError` if the model was asked more often than the script has lines."""
        if self._missing:
            raise AssertionError(f"The script has no more lines, but the model is asked: {self._missing[0][:200]}")

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def _prompt(request: ChatRequest) -> Prompt:
    texts = [(message.role, message.content or "") for message in request.messages]
    system = "\n".join(text for role, text in texts if role == "system")
    return Prompt(system, texts[-1][1], texts, [tool.name for tool in request.tools], bool(request.question))


def _answer(line: Any, number: int) -> ChatAnswer:
    usage = Usage(10, 2)
    if isinstance(line, str):
        return ChatAnswer(line, (), "stop", "script", usage)
    if isinstance(line, dict | BaseModel):
        data = line.model_dump(mode="json") if isinstance(line, BaseModel) else line
        return ChatAnswer(to_json(data), (), "stop", "script", usage)
    made = [line] if isinstance(line, Call) else list(line)
    if wrong := next((one for one in made if not isinstance(one, Call)), None):
        raise TypeError(f"A list in a script holds calls, as in [call('look_up', order='A')], not {wrong!r}")
    calls = tuple(ToolCall(f"call-{number}-{n}", one.tool, one.arguments) for n, one in enumerate(made))
    return ChatAnswer(None, calls, "tool_calls", "script", usage)
