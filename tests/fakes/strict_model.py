"""What a strict endpoint says: it refuses each prompt that some strict endpoint would refuse, and plays scripts.

```python
model = StrictModel()
async with OpenAIServer(otherwise=model) as server:
    model.script(thread_id, Answer({"content": "Hi"}), Answer({"content": "cut"}, finish="length"))
```

A thread has a script of its own, by the header that Threadfold sends along, so that one server serves many tests. After
the end of its script a thread gets a sensible answer. Refusals are in `model.refused`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from infrastructure.models.offline.structured import structured
from tests.fakes.openai_server import USAGE, Reply, Request, chunk, completion, events, refusal
from tests.support.strict_chat import violations

THREAD = "x-threadfold-thread"
CALL_ECHO = "call echo"
"""What a user says to have the tool `echo` called, always with the same id."""

ECHOED = 60
"""Characters of the last message that a sensible answer has at most."""


class Answer(Struct, frozen=True):
    """An answer that goes out as the request wants it: streamed or whole. `message` is all but the role."""

    message: Mapping[str, Any]
    finish: Any = "stop"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def reply(self, *, stream: bool) -> Reply:
        """Write the answer."""
        if not stream:
            return completion(None, **self._whole(), **self.extra)
        delta = {"role": "assistant", **self.message}
        if isinstance(calls := delta.get("tool_calls"), list):
            delta["tool_calls"] = [_with_index(call, number) for number, call in enumerate(calls)]
        said = {"model": "test-1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        return events(said, {**chunk(finish=self.finish), **self.extra}, USAGE, "[DONE]")

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", **self.message}
        return {"choices": [{"index": 0, "message": message, "finish_reason": self.finish}]}


Played = Answer | Reply
Check = Callable[[Mapping[str, Any]], Sequence[str]]
"""What an endpoint demands of a request beyond what all do: returns what is wrong."""


class StrictModel:
    """Answers the requests of an `OpenAIServer`: see the module."""

    def __init__(self) -> None:
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.refused: dict[str, list[list[str]]] = defaultdict(list)
        self._scripts: dict[str, list[Played]] = {}
        self._repeated: dict[str, Played] = {}
        self._own_fields: dict[str, Sequence[str]] = {}
        self._checks: dict[str, Check] = {}

    def script(self, thread: str, *played: Played, repeat: bool = False) -> None:
        """Let a thread's next requests have these answers. `repeat` gives the last one until another script comes."""
        self._scripts[thread] = list(played)
        self._repeated.pop(thread, None)
        if repeat:
            self._repeated[thread] = played[-1]

    def demand(self, thread: str, own_fields: Sequence[str] = (), check: Check | None = None) -> None:
        """Know fields beyond OpenAI's in a thread's messages, and check its requests for more than all endpoints do."""
        self._own_fields[thread] = own_fields
        if check is not None:
            self._checks[thread] = check

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        thread, body = request.headers.get(THREAD, ""), request.body
        self.requests[thread].append(body)
        wrong = [*violations(body, self._own_fields.get(thread, ())), *self._checks.get(thread, _nothing)(body)]
        if wrong:
            self.refused[thread].append(wrong)
            return refusal(400, "; ".join(wrong))
        script = self._scripts.get(thread, [])
        played = script.pop(0) if script else self._repeated.get(thread, sensible(body))
        return played.reply(stream=bool(body.get("stream"))) if isinstance(played, Answer) else played


def sensible(body: Mapping[str, Any]) -> Answer:
    """Call the tool `echo` if the user says so, tell a tool's result, or say again how the user's words end.

    With a schema the answer is JSON that fits.
    """
    last = body["messages"][-1]
    content = str(last["content"])[-ECHOED:]
    if schema := (body.get("response_format") or {}).get("json_schema", {}).get("schema"):
        return Answer({"content": structured(schema, str(last["content"]))})
    if last["role"] == "tool":
        return Answer({"content": f"The tool said: {content}"})
    if content.endswith(CALL_ECHO):
        call = function("echo", '{"text": "b"}', "call_again")
        return Answer({"content": None, "tool_calls": [call]}, "tool_calls")
    return Answer({"content": f"You said: {content}"})


def function(name: Any, arguments: Any = "{}", call_id: Any = "call_a", **rest: Any) -> dict[str, Any]:
    """Return a call of a tool, as a message has it. What is given as `...` is left out."""
    inner = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not ...}
    return {**({} if call_id is ... else {"id": call_id}), "type": "function", "function": inner, **rest}


def _with_index(call: Any, number: int) -> Any:
    return {"index": number, **call} if isinstance(call, dict) else call


def _nothing(_: Mapping[str, Any]) -> Sequence[str]:
    return ()
