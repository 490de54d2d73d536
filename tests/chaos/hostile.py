"""Requests and answers of models of hostile shapes, sizes and fragments, at a server that measures itself.

Faults are: a callback that held the event loop for more than `MAX_SECONDS` of a processor; a peak of memory above ten
times the size (or, of small ones, `MIN_BYTES`); an answer 500; a thread that cannot be read afterwards.
"""

import asyncio
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.chaos.crashes import new_database
from tests.chaos.hostile_server import CONTROL_PORT
from tests.e2e.server_process import ServerProcess, free_port
from tests.fakes.openai_server import OpenAIServer, Reply, Request, chunk, event

MAX_SECONDS = 0.1
MAX_RATIO = 10
MIN_BYTES = 16 * 1024 * 1024
"""Memory that is granted to anything: libraries that are imported late, buffers of sockets, threads' stacks."""

REQUEST_BYTES, ANSWER_BYTES = 980_000, 4_000_000
CASES = 40
"""Cases of a run."""

MAX_PARTS = 5_000
"""Parts of an answer: the server of the test takes as long for each as ours."""

SECONDS = 60.0
"""How long a case may take."""

Shape = Callable[[int], str]


def _repeated(item: str, size: int) -> str:
    return ",".join([item] * max(size // (len(item) + 1), 1))


def _key(size: int, item: str) -> str:
    return '{"' + "k" * (size // 2) + '":[' + _repeated(item, size // 2) + "]}"


SHAPES: Mapping[str, Shape] = {
    "numbers": lambda size: f"[{_repeated('1', size)}]",
    "empty lists": lambda size: f"[{_repeated('[]', size)}]",
    "empty objects": lambda size: f"[{_repeated('{}', size)}]",
    "empty texts": lambda size: f"[{_repeated(chr(34) * 2, size)}]",
    "emoji": lambda size: json.dumps("a" * (size - 8) + "😀", ensure_ascii=False),
    "escapes": lambda size: '"' + "\\u00e9" * (size // 6) + '"',
    "quotes": lambda size: '"' + '\\"' * (size // 2) + '"',
    "backslashes": lambda size: '"' + "\\\\" * (size // 2) + '"',
    "text without end": lambda size: '"' + '\\"' * (size // 2),
    "spaces": lambda size: json.dumps(" " * size),
    "newlines": lambda size: json.dumps("\n" * (size // 2)),
    "markup": lambda size: json.dumps("<think>" + "</" * (size // 2)),
    "only": lambda size: json.dumps("only " * (size // 5)),
    "long key, numbers": lambda size: _key(size, "1"),
    "long key, texts": lambda size: _key(size, '"a"'),
    "fields": lambda size: "{" + ",".join(f'"{n:x}":{n % 7}' for n in range(size // 9)) + "}",
    "one field again and again": lambda size: "{" + _repeated('"a":1', size) + "}",
    "deep lists": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "deep objects": lambda size: '{"a":' * (size // 6) + "1" + "}" * (size // 6),
    "digits": lambda size: "1" * size,
    "digits of a fraction": lambda size: "0." + "1" * size,
    "many long numbers": lambda size: f"[{_repeated('9' * 4_000, size)}]",
    "blanks": lambda size: " " * size + "1",
    "few items": lambda size: json.dumps({f"key{n}": {"a": [n, "b" * (size // 10_000)]} for n in range(4_000)}),
    "colons": lambda size: json.dumps("a:1,b:2;" * (size // 8)),
}

Route = tuple[str, str, str]
"""A method, a path, and a body with VALUE in it."""

ROUTES: Sequence[Route] = (
    ("POST", "/v1/agent/invoke", '{"user_input":VALUE}'),
    ("POST", "/v1/agent/invoke", '{"user_input":"a","b":VALUE}'),
    ("POST", "/v1/agent/invoke", "VALUE"),
    ("POST", "/v1/threads", '{"values":VALUE}'),
    ("POST", "/v1/threads", '{"values":{"a":VALUE}}'),
    ("POST", "/v1/threads", '{"subject":VALUE}'),
    ("POST", "/v1/threads", '{"graph":VALUE}'),
    ("POST", "/v1/threads/{thread}/turns", '{"user_input":VALUE,"checkpoint_ref":VALUE}'),
    ("PATCH", "/v1/threads/{thread}/values", '{"values":{"a":VALUE}}'),
    ("PUT", "/v1/threads/{thread}/budget", '{"limits":VALUE}'),
    ("POST", "/v1/threads/{thread}/fork", '{"values":VALUE,"messages":VALUE}'),
    ("POST", "/v1/threads/{thread}/fork", '{"values":{"a":VALUE}}'),
    ("POST", "/v1/threads/{thread}/approvals/1", '{"decision":"grant","hash":"x","arguments":VALUE}'),
    ("POST", "/v1/threads/{thread}/approvals/1", '{"decision":"answer","hash":"x","answer":VALUE}'),
    ("POST", "/v1/projections/rebuild", '{"projections":VALUE}'),
    ("PUT", "/v1/limits", '{"limits":VALUE,"agent":VALUE}'),
    ("POST", "/v1/replays", '{"threads":VALUE}'),
    ("POST", "/v1/replays", '{"filter":{"status":VALUE,"reason":VALUE}}'),
)


def _call(arguments: Any, name: Any = "calculate", label: Any = "c1", **more: Any) -> dict[str, Any]:
    return {"index": 0, "id": label, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def _whole(message: Mapping[str, Any], finish: Any = "stop", **more: Any) -> str:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}, **more})


def _delta(**delta: Any) -> bytes:
    return event(chunk(**delta))


VALUE = '"VALUE"'

WHOLE: Mapping[str, str] = {
    "content": _whole({"content": "VALUE"}),
    "refusal": _whole({"refusal": "VALUE"}),
    "reasoning": _whole({"content": "a", "reasoning": "VALUE"}),
    "extra": _whole({"content": "a", "reasoning_details": "VALUE"}),
    "arguments": _whole({"tool_calls": [_call("VALUE")]}, "tool_calls"),
    "name": _whole({"tool_calls": [_call("{}", "VALUE")]}, "tool_calls"),
    "id": _whole({"tool_calls": [_call("{}", label="VALUE")]}, "tool_calls"),
    "calls": _whole({"tool_calls": "VALUE"}, "tool_calls"),
    "extra of a call": _whole({"tool_calls": [_call("{}", extra_content="VALUE")]}, "tool_calls"),
    "finish": _whole({"content": "a"}, "VALUE"),
    "model": _whole({"content": "a"}, model="VALUE"),
    "usage": _whole({"content": "a"}, usage={"prompt_tokens": "VALUE", "completion_tokens": "VALUE"}),
    "choices": json.dumps({"choices": "VALUE"}),
    "error": json.dumps({"error": {"code": 400, "message": "VALUE"}}),
    "errors": json.dumps({"errors": "VALUE"}),
    "anything": VALUE,
}
"""Answers that come as one JSON object."""


def _streamed(size: int) -> Mapping[str, Callable[[], list[bytes]]]:
    """Return answers that come in many events."""
    extra = {"type": "a", "text": "b"}
    ended = [_delta(finish="stop"), event("[DONE]")]
    return {
        "letters": lambda: [_delta(content="a")] * (size // 90) + ended,
        "events without anything": lambda: [b"data: {}\n\n"] * (size // 10),
        "blank lines": lambda: [b"data: {}\n\n" + b"\n" * (size - 10)],
        "blanks": lambda: [b" " * 8] * (size // 8),
        "comments": lambda: [b":\n"] * (size // 2) + ended,
        "a line without end": lambda: [b"data: " + b"a" * (size - 6)],
        "lines of one event": lambda: [b"data:\n" * (size // 6)],
        "fragments of a call": lambda: [_delta(tool_calls=[_call("[1,")])] * (size // 160) + ended,
        "a call that is complete, again": lambda: [
            _delta(tool_calls=[_call(json.dumps({"a": "b" * (size // 3)}))]),
            *[_delta(tool_calls=[_call("")])] * (size // 300),
            *ended,
        ],
        "calls": lambda: [_delta(tool_calls=[{**_call("{}", label=f"c{n}"), "index": n}]) for n in range(size // 180)],
        "braces": lambda: [
            _delta(tool_calls=[_call("{" * (size // 2))]),
            _delta(tool_calls=[_call("{" * (size // 3))]),
            *ended,
        ],
        "entries": lambda: (
            [_delta(reasoning_details=[{**extra, "index": n}]) for n in range(min(size // 140, 4_000))] + ended
        ),
        "fields": lambda: [_delta(**{f"f{n}": 1}) for n in range(min(size // 100, 8_000))] + ended,
        "choices": lambda: [event({"choices": [{"index": n, "delta": {"content": "a"}}]}) for n in range(size // 70)],
        "lines of JSON": lambda: [json.dumps(chunk("a")).encode() + b"\n"] * (size // 90),
        "line ends": lambda: [b"{}" + b"\n" * (size - 2)],
    }


@dataclass(frozen=True)
class Case:
    """A request, or an answer of the model to one."""

    name: str
    size: int
    send: Route | None = None
    body: bytes = b""
    reply: Reply | None = None


@dataclass
class Report:
    """What was seen in the run of a seed."""

    seed: int
    faults: list[str] = field(default_factory=list)
    cases: int = 0
    slowest: float = 0.0
    largest: float = 0.0
    """The highest ratio of memory to size."""


def cases(seed: int, count: int = CASES) -> list[Case]:
    """Draw the cases of a run."""
    draw = random.Random(seed)
    return [(_request if draw.random() < 0.5 else _answer)(draw) for _ in range(count)]


def _size(draw: random.Random, most: int) -> int:
    return most if draw.random() < 0.7 else draw.choice([100, 5_000, 60_000, 250_000])


def _request(draw: random.Random) -> Case:
    route, shape, size = draw.choice(ROUTES), draw.choice([*SHAPES]), _size(draw, REQUEST_BYTES)
    value = SHAPES[shape](size // max(route[2].count("VALUE"), 1) - 100)
    body = route[2].replace("VALUE", value).encode()[:999_999]
    return Case(f"{route[0]} {route[1]} {route[2]}: {shape} of {len(body):,}", len(body), route, body)


def _answer(draw: random.Random) -> Case:
    size = _size(draw, ANSWER_BYTES)
    if draw.random() < 0.4:
        streams = _streamed(size)
        name = draw.choice([*streams])
        parts = streams[name]()
    else:
        field_, shape = draw.choice([*WHOLE]), draw.choice([*SHAPES])
        value = SHAPES[shape](size - 300)
        as_text = field_ == "arguments" or draw.random() < 0.2
        body = WHOLE[field_].replace(VALUE, json.dumps(value) if as_text else value).encode()
        in_event = draw.random() < 0.5
        body = b"data: " + body.replace(b'"message":', b'"delta":') + b"\n\ndata: [DONE]\n\n" if in_event else body
        name, parts = f"{field_}{' in an event' if in_event else ''}: {shape}{' as text' if as_text else ''}", [body]
    whole = b"".join(parts)
    cut = draw.choice(["parts", "one", "blocks", "small", "gzip"])
    status = draw.choice([200] * 8 + [400, 500])
    headers = {"content-type": "application/json"}
    match cut:
        case "parts":
            few = len(parts) // MAX_PARTS + 1
            parts = [b"".join(parts[at : at + few]) for at in range(0, len(parts), few)]
        case "one":
            parts = [whole]
        case "blocks":
            parts = [whole[at : at + 65_536] for at in range(0, len(whole), 65_536)]
        case "small":
            step = max(600, len(whole) // MAX_PARTS)
            parts = [whole[at : at + step] for at in range(0, len(whole), step)]
        case "gzip":
            parts, headers = [gzip.compress(whole, 1)], {**headers, "content-encoding": "gzip"}
    name = f"an answer {status}, {name} of {len(whole):,}, in {len(parts):,} ({cut})"
    return Case(name, len(whole), reply=Reply(parts, status, headers))


async def run(server: str, template: str, home: Path, seed: int) -> Report:
    """Send the cases of a seed to a server of its own."""
    report = Report(seed)
    await asyncio.to_thread(home.mkdir)
    replies: list[Reply] = []

    def reply(_: Request) -> Reply:
        return replies[0] if replies else Reply([_whole({"content": "Yes."}).encode()])

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(new_database(server, template))
        model = await stack.enter_async_context(OpenAIServer(otherwise=reply))
        port, control = free_port(), free_port()
        settings = {
            "DATABASE_URL": url,
            "LLM_ENDPOINT": model.endpoint,
            "LLM_MODEL": "hostile",
            CONTROL_PORT: str(control),
        }
        arguments = ("tests.chaos.hostile_server", "--port", str(port))
        process = ServerProcess(
            *arguments, port=port, ready="/health/ready", log=home / "server.log", settings=settings
        )
        await stack.enter_async_context(process)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=process.url, timeout=SECONDS, trust_env=False)
        )
        target = _Target(client, f"http://127.0.0.1:{control}/", replies)
        for warm in (Case("", 0), Case("", 0, reply=Reply([_whole({"content": "Yes."}).encode()]))):
            await target.have(warm)
        for case in cases(seed):
            await target.measure(case, report)
    return report


@dataclass
class _Target:
    client: httpx.AsyncClient
    control: str
    replies: list[Reply]

    async def measure(self, case: Case, report: Report) -> None:
        """Have a case, and note what it took."""
        await self._taken()
        try:
            async with asyncio.timeout(SECONDS):
                await self.have(case)
        except (TimeoutError, httpx.HTTPError, AssertionError) as error:
            report.faults.append(f"{case.name}: {error!r}")
        taken = await self._taken()
        report.cases += 1
        report.slowest = max(report.slowest, taken["seconds"])
        report.largest = max(report.largest, taken["bytes"] / max(case.size * MAX_RATIO, MIN_BYTES))
        if taken["seconds"] > MAX_SECONDS:
            report.faults.append(f"{case.name}: blocked for {taken['seconds'] * 1000:.0f} ms by {taken['what']}")
        if taken["bytes"] > max(case.size * MAX_RATIO, MIN_BYTES):
            report.faults.append(f"{case.name}: took {taken['bytes'] / 1e6:.0f} MB")

    async def have(self, case: Case) -> None:
        """Send a request; or start a turn that gets the answer, and read what became of it."""
        thread = str(uuid4())
        opened = await self.client.post("/v1/threads", json={"thread_id": thread})
        assert opened.is_success, opened.text
        if case.send is not None:
            method, path, _ = case.send
            headers = {"content-type": "application/json"}
            given = await self.client.request(method, path.format(thread=thread), content=case.body, headers=headers)
            assert given.status_code < 500, given.text
        if case.reply is not None:
            self.replies[:] = [case.reply]
            path = f"/v1/threads/{thread}/turns"
            try:
                said = {"user_input": "What is 2 + 3?"}
                given = await self.client.post(path, params={"wait": True}, json=said)
                assert given.status_code < 500, given.text
            finally:
                self.replies.clear()
        for path in ("state", "messages", "events"):
            shown = await self.client.get(f"/v1/threads/{thread}/{path}")
            assert shown.status_code < 500, shown.text

    async def _taken(self) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
            found: dict[str, Any] = (await client.get(self.control)).json()
            return found
