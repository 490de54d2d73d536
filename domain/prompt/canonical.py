"""Prompts in a form that every strict endpoint accepts, whatever the conversation holds.

The log records what was said: names that no tool has, repeated ids, empty answers. Endpoints differ in what they
refuse. All of them accept this form:

- At most one system message, the first. Then user and assistant alternate, beginning with the user. Tool results belong
  to the assistant's turn. The last message is the user's or a tool's.
- Each call has an id of its own, of nine letters and digits, and a valid name. Exactly one result for each follows
  directly, in the order of the calls.
- Every content has a visible character, except that of an assistant's message that only calls tools.

Where a role is missing, a short note in brackets takes its place and says why. Nothing else is invented.

The form of a message depends on the messages before it and on the results directly after it, never on later ones. So a
prompt that grows at its end keeps its beginning byte for byte, and the endpoint's prefix cache hits.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count, pairwise

import msgspec
from msgspec.structs import replace

from domain.json import Json, storable_text
from domain.models.chat import ChatMessage, ToolCall

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
"""Tool names that all endpoints accept: Gemini wants a letter or an underscore first, OpenAI no dot and no colon."""

CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
"""Call ids that all endpoints accept: Mistral wants exactly these, OpenAI at most 40 characters, Anthropic no dot."""

BEGINNING = "[The beginning of this conversation is not shown.]"
GO_ON = "[Go on.]"
NO_ANSWER = "[No answer: the turn ended before one was given.]"
NOTES = frozenset({BEGINNING, GO_ON, NO_ANSWER})
"""Messages that are inserted so that roles alternate."""

NO_TEXT = "[This message is empty.]"
NO_OUTPUT = "[The tool returned nothing.]"
NO_RESULT = "[The result of this call is not known.]"

MAX_READABLE_CHARS = 55
"""What is kept of an invalid name. With the digest that makes it unique, it has at most 64 characters."""


def canonical(
    messages: Sequence[ChatMessage], tools: Collection[str] = (), origin: str = "", *, foreign_calls: bool = True
) -> tuple[ChatMessage, ...]:
    """Return a prompt in the form that every strict endpoint accepts.

    `tools` are the names that the request declares. Without any, calls and results become text: Anthropic and Bedrock
    refuse calls in a request without tools. `origin` is the endpoint that receives the prompt: provider-specific data
    of another one is removed. Without `foreign_calls`, calls without data of this endpoint become text too: some
    endpoints refuse them.
    """
    start = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
    instructions = "\n\n".join(filter(str.strip, (message.content or "" for message in messages[:start])))
    prompt = _Prompt(instructions, tools, origin, foreign_calls=foreign_calls)
    # Results of tools belong to the message before them.
    heads = [n for n in range(start, len(messages)) if n == start or messages[n].role != "tool"]
    for head, end in pairwise([*heads, len(messages)]):
        prompt.add(messages[head], messages[head + 1 : end])
    return prompt.end()


def short_id(given: str, before: int = 0, attempt: int = 0) -> str:
    """Return the id that is sent for `given`, if `before` earlier calls of the prompt have it; `given` if it is valid.

    Another `attempt` returns another id, if a call has that one already.
    """
    if CALL_ID.fullmatch(given) and not before and not attempt:
        return given
    return _digest(f"{before} {attempt} {given}", 9)


class _Prompt:
    """A canonical prompt that is being written."""

    def __init__(self, instructions: str, tools: Collection[str], origin: str, *, foreign_calls: bool) -> None:
        self._tools = frozenset(tools)
        self._origin = origin
        self._foreign_calls = foreign_calls
        self._written = [ChatMessage("system", storable_text(instructions))] if instructions else []
        self._notes: list[str] = []
        """Texts that belong to no turn: they precede the user's next words, or else follow the last message."""
        self._seen: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._names: dict[str, str] = {}
        self._taken = set(self._tools)

    def add(self, message: ChatMessage, results: Sequence[ChatMessage]) -> None:
        """Write a message and the results directly after it."""
        match message.role:
            case "system":
                self._note(message.content)
            case "user":
                self._say(message)
            case "assistant":
                results = self._answer(message, results)
            case "tool":
                results = (message, *results)
        for orphan in results:  # its call is not in the prompt
            self._note(_result_text(orphan))

    def end(self) -> tuple[ChatMessage, ...]:
        """Return the prompt, ending so that the model is next."""
        self._place_notes()
        if self._last not in {"user", "tool"}:
            self._written.append(ChatMessage("user", GO_ON))
        return tuple(self._written)

    @property
    def _last(self) -> str:
        return self._written[-1].role if self._written else "system"

    def _note(self, text: str | None) -> None:
        if text and text.strip():
            self._notes.append(storable_text(text))

    def _place_notes(self) -> None:
        """Write notes that precede no words of the user."""
        if not self._notes:
            return
        text = "\n\n".join(self._notes)
        self._notes.clear()
        if self._last in {"user", "tool"}:
            last = self._written[-1]
            self._written[-1] = replace(last, content=f"{last.content}\n\n{text}")
        else:
            self._written.append(ChatMessage("user", text))

    def _say(self, message: ChatMessage) -> None:
        """Write the user's message, after a note if the one before was not answered."""
        if self._last in {"user", "tool"}:
            self._written.append(ChatMessage("assistant", NO_ANSWER))
        text = "\n\n".join((*self._notes, _visible(message.content) or NO_TEXT))
        self._notes.clear()
        self._written.append(ChatMessage("user", text, name=self._name(message.name) if message.name else None))

    def _answer(self, message: ChatMessage, results: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
        """Write an assistant's message with its calls and results. Return the results of other calls."""
        text = _visible(message.content)
        if not text and not message.tool_calls:
            return results  # it is empty
        self._place_notes()
        if self._last == "system":
            self._written.append(ChatMessage("user", BEGINNING))
        elif self._last == "assistant":
            self._written.append(ChatMessage("user", GO_ON))
        found, orphans = _matched(message.tool_calls, results)
        as_calls = bool(self._tools) and (self._foreign_calls or self._owns(message))
        if message.tool_calls and not as_calls:
            self._write_as_text(message, text, found)
        else:
            self._write_calls(message, text, found)
        return orphans

    def _write_calls(self, message: ChatMessage, text: str | None, results: Sequence[ChatMessage | None]) -> None:
        """Write an assistant's message with its calls, and their results."""
        own = self._owns(message)
        ids = [self._id(call.id) for call in message.tool_calls]
        renamed = {call.id: new for call, new in reversed(list(zip(message.tool_calls, ids, strict=True)))}
        calls = tuple(
            replace(call, id=new, name=self._name(call.name), extra=_renamed(call.extra, renamed) if own else {})
            for call, new in zip(message.tool_calls, ids, strict=True)
        )
        extra = _renamed(message.extra, renamed) if own else {}
        name = self._name(message.name) if message.name else None
        self._written.append(ChatMessage("assistant", text, calls, name=name, extra=extra))
        for call, result in zip(calls, results, strict=True):
            content = NO_RESULT if result is None else _visible(result.content) or NO_OUTPUT
            self._written.append(ChatMessage("tool", content, tool_call_id=call.id, name=call.name))

    def _owns(self, message: ChatMessage) -> bool:
        """Say whether a message came from the endpoint that receives the prompt."""
        return bool(self._origin) and message.origin == self._origin

    def _write_as_text(self, message: ChatMessage, text: str | None, results: Sequence[ChatMessage | None]) -> None:
        """Write an assistant's message with its calls as text, and their results as a user's message."""
        called = (
            f"[Called {self._name(call.name)} with {msgspec.json.encode(call.arguments).decode()}]"
            for call in message.tool_calls
        )
        self._written.append(ChatMessage("assistant", "\n".join((*([text] if text else []), *called))))
        texts = [
            _result_text(replace(result or ChatMessage("tool", NO_RESULT), name=self._name(call.name)))
            for call, result in zip(message.tool_calls, results, strict=True)
        ]
        self._written.append(ChatMessage("user", "\n\n".join(texts)))

    def _id(self, given: str) -> str:
        """Return the id of a call in this prompt, which no earlier call has."""
        before = self._seen[given]
        self._seen[given] += 1
        name = next(name for n in count() if (name := short_id(given, before, n)) not in self._ids)
        self._ids.add(name)
        return name

    def _name(self, given: str) -> str:
        """Return the name of a tool in this prompt: unchanged if it is valid, else one that no other tool has."""
        if given not in self._names:
            name = given
            for attempt in count():
                free = name not in self._taken or (name == given and given in self._tools)
                if free and (NAME.fullmatch(name) or given in self._tools):
                    break
                name = f"{_readable(given)}_{_digest(f'{attempt} {given}' if attempt else given, 8)}"
            self._taken.add(name)
            self._names[given] = name
        return self._names[given]


def _matched(
    calls: Sequence[ToolCall], results: Sequence[ChatMessage]
) -> tuple[Sequence[ChatMessage | None], Sequence[ChatMessage]]:
    """Return each call's result, and the results of no call. A result names its call's place, or else its id."""
    found: dict[int, ChatMessage] = {}
    rest: list[ChatMessage] = []
    for result in results:
        place = result.answers
        if (
            place is not None
            and place not in found
            and 0 <= place < len(calls)
            and result.tool_call_id == calls[place].id
        ):
            found[place] = result
        else:
            rest.append(result)
    orphans = []
    for result in rest:
        first = next((n for n, call in enumerate(calls) if n not in found and result.tool_call_id == call.id), None)
        if first is None:
            orphans.append(result)
        else:
            found[first] = result
    return [found.get(n) for n in range(len(calls))], orphans


def _result_text(result: ChatMessage) -> str:
    return f"[Result of {result.name or 'a tool'}]\n{_visible(result.content) or NO_OUTPUT}"


def _visible(text: str | None) -> str | None:
    return storable_text(text) if text and text.strip() else None


def _readable(name: str) -> str:
    kept = re.sub(r"[^a-zA-Z0-9_-]+", "_", name[: 4 * MAX_READABLE_CHARS])[:MAX_READABLE_CHARS]
    return kept if NAME.fullmatch(kept) else f"tool{kept}"[:MAX_READABLE_CHARS]


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]


def _renamed(value: Json, names: dict[str, str]) -> Json:
    """Replace the ids of calls within provider-specific data."""
    match value:
        case str():
            return names.get(value, value)
        case dict():
            return {key: _renamed(item, names) for key, item in value.items()}
        case list():
            return [_renamed(item, names) for item in value]
        case _:
            return value
