"""A real HTTP server on a loopback port that answers as it is told: it streams, dawdles, cuts, refuses, babbles.

```python
async with OpenAIServer(stream("Hel", "lo"), refusal(429, retry_after="1"), completion("Hi")) as server:
    model = OpenAIChatModel(server.endpoint, None, "any")
```

Each request takes the next reply of the script. After its end, every request gets `otherwise`, which may be a
function of the request. What came in is in `server.requests`.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Pause:
    """Send nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """Close the connection here, without saying that the body has ended."""


Step = bytes | Pause | Cut


@dataclass(frozen=True)
class Reply:
    """A response: each bytes of the body goes out as a chunk of its own. `before` happens ahead of the head."""

    body: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    before: Sequence[Pause | Cut] = ()


@dataclass
class Request:
    """What a client sent. `left` is set when the client closed the connection before the reply was out."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    connection: int
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


Otherwise = Reply | Callable[[Request], Reply]


def refusal(status: int, message: str = "no", *, retry_after: str | None = None, **headers: str) -> Reply:
    """Refuse with OpenAI's shape of error."""
    extra = {} if retry_after is None else {"retry-after": retry_after}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps({"error": {"message": message, "type": "test", "code": None}}).encode()
    return Reply([body], status, {"content-type": "application/json", **extra, **named})


def completion(
    content: Any = "Hello", calls: Sequence[Mapping[str, Any]] = (), finish: str | None = "stop", **extra: Any
) -> Reply:
    """Answer as a whole. `calls` are written as they are; `extra` adds or replaces parts of the completion."""
    message = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}
    whole = {
        "id": "c1",
        "object": "chat.completion",
        "model": "test-1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        **extra,
    }
    return Reply([json.dumps(whole).encode()])


def chunk(content: Any = None, *, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return one chunk of a streamed answer."""
    added = {**({} if content is None else {"content": content}), **delta}
    return {"model": "test-1", "choices": [{"index": 0, "delta": added, "finish_reason": finish}]}


USAGE = {"model": "test-1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def event(data: Any, end: str = "\n\n") -> bytes:
    """Write one server-sent event: text as it is, everything else as JSON."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}{end}".encode()


def events(*steps: Any, status: int = 200) -> Reply:
    """Stream whatever is given: bytes, pauses and cuts as they are, all else as events."""
    body = [step if isinstance(step, bytes | Pause | Cut) else event(step) for step in steps]
    return Reply(body, status, {"content-type": "text/event-stream; charset=utf-8"})


def stream(*pieces: str) -> Reply:
    """Stream an answer as OpenAI does, the usage in a last chunk of its own."""
    return events(chunk("", role="assistant"), *map(chunk, pieces), chunk(finish="stop"), USAGE, "[DONE]")


def echo(request: Request) -> Reply:
    """Answer with the last message, in the way that was asked for."""
    text = f"You said: {request.body['messages'][-1]['content']}"
    return stream(*text.split(" ")) if request.body.get("stream") else completion(text)


class OpenAIServer:
    """See the module. `async with` starts and stops it."""

    def __init__(self, *script: Reply, otherwise: Otherwise = echo) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._script = list(script)
        self._otherwise = otherwise
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while (request := await _read(reader, number)) is not None:
                self.requests.append(request)
                if not await self._respond(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _respond(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Write the next reply; say whether the connection can serve another one."""
        otherwise = self._otherwise
        reply = (
            self._script.pop(0) if self._script else otherwise if isinstance(otherwise, Reply) else otherwise(request)
        )
        leaving = asyncio.create_task(_notice_leaving(reader, request))
        writing = asyncio.create_task(_write(reply, writer))
        try:
            await asyncio.wait({leaving, writing}, return_when=asyncio.FIRST_COMPLETED)
            return writing.done() and await writing and not request.left.is_set()
        finally:
            for task in (leaving, writing):
                task.cancel()
            await asyncio.gather(leaving, writing, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, raw, connection)


async def _notice_leaving(reader: asyncio.StreamReader, request: Request) -> None:
    # Looked at, not read: a byte read here would be missing from the connection's next request.
    while not reader.at_eof():
        await asyncio.sleep(0.01)
    request.left.set()


async def _write(reply: Reply, writer: asyncio.StreamWriter) -> bool:
    for first in reply.before:
        if isinstance(first, Cut):
            return False
        await asyncio.sleep(first.seconds)
    headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    writer.write(f"HTTP/1.1 {reply.status} Scripted\r\n{headers}transfer-encoding: chunked\r\n\r\n".encode())
    for step in reply.body:
        match step:
            case Cut():
                return False
            case Pause(seconds):
                await writer.drain()
                await asyncio.sleep(seconds)
            case bytes():
                writer.write(b"%x\r\n%b\r\n" % (len(step), step))
                await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
