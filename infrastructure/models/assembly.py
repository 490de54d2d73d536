"""An answer put together from its parts: one part where it comes whole, many where it is streamed."""

import json
from collections.abc import Iterator
from itertools import count

from domain.chat import AnswerCut, AnswerMalformed, ChatAnswer, ToolArgumentsMalformed, ToolCall, Usage
from domain.errors import InvalidInput
from domain.json import JsonObject, check_json, storable_text
from infrastructure.models.failures import message_of, shortened
from infrastructure.models.wire import CallPart, Choice, Completion, Counts, Part, read_counts

MAX_NAME = 64


class Assembly:
    """Takes completions or chunks in their order; `answer` gives what they amount to."""

    def __init__(self, model: str, secret: str = "") -> None:
        """Start empty. `model` is the name to give where the endpoint gives none; `secret` is never told."""
        self._model = model
        self._secret = secret
        self._text: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._begun = False

    @property
    def finished(self) -> bool:
        """Whether the model said why it stopped: nothing but the usage can follow."""
        return self._finish_reason is not None

    def add(self, completion: Completion) -> str:
        """Add a part and return the text that it brought. Raise `AnswerCut` if it is the server giving up."""
        if completion.error is not None:
            raise AnswerCut(f"The model's endpoint gave up: {message_of(completion.error, self._secret)}")
        self._model = completion.model or self._model
        self._usage = _usage(read_counts(completion.usage)) or self._usage
        # We ask for one answer; what a server numbers otherwise is another one.
        return "".join(self._add_choice(choice) for choice in completion.choices or () if not choice.index)

    def finish(self) -> None:
        """Take the answer as complete, though the model gave no reason for its end."""
        self._finish_reason = self._finish_reason or ("tool_calls" if self._calls else "stop")

    def answer(self) -> ChatAnswer:
        """Return the whole answer. Raise `AnswerMalformed` if there is none, or a call cannot be understood."""
        if not self._begun:
            raise AnswerMalformed("The model's endpoint answered without any choice.")
        taken = {call.id for call in self._calls}
        spare = (name for name in (f"call_{n}" for n in count(1)) if name not in taken)
        calls = tuple(call.whole(spare) for call in self._calls)
        text = storable_text("".join(self._text))
        return ChatAnswer(
            content=None if calls and not text else text,
            tool_calls=calls,
            finish_reason=storable_text(self._finish_reason or "stop"),
            model=storable_text(self._model),
            usage=self._usage,
        )

    def _add_choice(self, choice: Choice) -> str:
        self._begun = True
        self._finish_reason = choice.finish_reason or self._finish_reason
        part = choice.delta or choice.message or Part()
        for call in part.tool_calls or ():
            self._add_call(call)
        text = part.content or part.refusal or ""
        self._text.append(text)
        return text

    def _add_call(self, part: CallPart) -> None:
        """Find the call that a fragment continues, by index or else the last one, or begin a new one."""
        last = self._calls[-1] if self._calls else None
        call = last if part.index is None else self._by_index.get(part.index)
        if call is None or call.is_followed_by(part):
            call = _Call()
            self._calls.append(call)
            if part.index is not None:
                self._by_index[part.index] = call
        call.add(part)


class _Call:
    """A tool call in the making."""

    def __init__(self) -> None:
        self.id = ""
        self._name = ""
        self._fragments: list[str] = []
        self._object: JsonObject | None = None

    def is_followed_by(self, part: CallPart) -> bool:
        """Say whether a fragment with this call's index, or none, begins another call all the same.

        Some servers give every call the index 0, some give every fragment an id of its own, some repeat the name
        in each fragment. Only a fragment with a name can begin a call; and it does if its id is another one, or,
        where there are no ids to compare, if this call's arguments are complete.
        """
        if part.function is None or not part.function.name or not self._name:
            return False
        if part.id is not None and self.id:
            return str(part.id) != self.id
        return self._object is not None or _is_object("".join(self._fragments))

    def add(self, part: CallPart) -> None:
        self.id = self.id or ("" if part.id is None else str(part.id))
        if part.function is None:
            return
        self._name = self._name or part.function.name or ""
        match part.function.arguments:
            case None:
                pass
            case str() as fragment:
                self._fragments.append(fragment)
            case dict() as whole:
                self._object = whole
            case other:
                raise self._malformed(f"that are of type {type(other).__name__}, not an object")

    def whole(self, spare_ids: Iterator[str]) -> ToolCall:
        """Return the call. Where the server gave it no id, it takes a spare one."""
        if not self._name:
            raise AnswerMalformed("The model asked for a tool without naming it.")
        arguments = self._arguments()
        try:
            check_json(arguments, "arguments")
        except InvalidInput as error:
            raise self._malformed(f"that cannot be stored: {shortened(str(error))}") from error
        return ToolCall(storable_text(self.id) or next(spare_ids), storable_text(self._name), arguments)

    def _arguments(self) -> JsonObject:
        if self._object is not None:
            return self._object
        text = "".join(self._fragments)
        if not text.strip():
            return {}
        try:
            arguments = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._malformed(f"that are not JSON: {shortened(text)}") from error
        if not isinstance(arguments, dict):
            raise self._malformed(f"that are not a JSON object: {shortened(text)}")
        return arguments

    def _malformed(self, why: str) -> ToolArgumentsMalformed:
        name = shortened(self._name, MAX_NAME)
        return ToolArgumentsMalformed(f"The model asked for the tool {name!r} with arguments {why}")


def _is_object(text: str) -> bool:
    try:
        return text.rstrip().endswith("}") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _usage(counts: Counts | None) -> Usage | None:
    if counts is None or counts.prompt_tokens is None or counts.completion_tokens is None:
        return None
    return Usage(max(0, counts.prompt_tokens), max(0, counts.completion_tokens), max(0, counts.cached))
