"""Odd ways to send an answer, as data; see `odd_answers.py`. The answer itself is in order, or is a failure."""

import gzip
import json
from typing import Any

from tests.fakes.odd_answers import ANY, ECHO, ERROR, A, Ends, Odd
from tests.fakes.openai_server import USAGE, Cut, Pause, Reply, chunk, completion, event, events, refusal
from tests.fakes.strict_model import function

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
HELLO: list[Any] = [chunk("", role="assistant"), chunk("Here "), chunk("I am."), chunk(finish="stop")]
WHOLE: Any = completion("Here I am.").body[0]
LINES: list[Any] = [event(step) for step in [*HELLO, "[DONE]"]]
SMILE = "data: {}\n\n".format(json.dumps(chunk("Here I am. 😀"), ensure_ascii=False)).encode()
MIDDLE = SMILE.index("😀".encode()) + 2


def _hello(name: str, *steps: Any, shows: str = "Here I am.", **expected: Any) -> Odd:
    return Odd(f"framing {name}", [events(*steps)], shows=[shows], **expected)


def _sent(name: str, body: list[Any], headers: dict[str, str], shows: str = "Here I am.") -> Odd:
    return Odd(f"framing {name}", [Reply(body, headers=headers)], shows=[shows])


def _gives_up(name: str, reply: Reply, ends: Ends = Ends.FAILED) -> Odd:
    return Odd(f"failure {name}, always", [reply], ends, repeat=True)


def _once(name: str, reply: Reply) -> Odd:
    return Odd(f"failure {name}, once", [reply], Ends.ANSWERED, shows=["You said: go"])


def _calls(name: str, *steps: Any, told: tuple[str, ...] = ("echo[a]",), **expected: Any) -> Odd:
    return Odd(f"fragments {name}", [events(*steps, USAGE, "[DONE]")], **{"told": told, "asks": 2, **expected})


def _part(*fragments: Any, finish: str | None = None) -> dict[str, Any]:
    return chunk(None, finish=finish, tool_calls=list(fragments))


def _piece(index: Any, arguments: str, **rest: Any) -> dict[str, Any]:
    return {**({} if index is ... else {"index": index}), "function": {"arguments": arguments}, **rest}


END = chunk(finish="tool_calls")
TWO = ("echo[a]", "noon")


def _at(index: Any, call: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, **call}


FRAMINGS = (
    _hello("comments and pings", b": waiting\n\n", *HELLO[:2], b": ping\n\n", b"event: ping\ndata: {}\n\n", *HELLO[2:]),
    _sent("CR LF", [event(step, "\r\n\r\n") for step in [*HELLO, "[DONE]"]], SSE),
    _sent("CR only", [event(step, "\r\r") for step in [*HELLO, "[DONE]"]], SSE),
    _sent("byte order mark", [b"\xef\xbb\xbf", *LINES], SSE),
    _sent("no space after data:", [line.replace(b"data: ", b"data:") for line in LINES], SSE),
    _sent("ids and retries", [b"id: 1\nretry: 5\nevent: message\n" + line for line in LINES], SSE),
    _sent("one byte at a time", [bytes([byte]) for line in LINES for byte in line], SSE),
    _sent("all in one chunk", [b"".join(LINES)], SSE),
    _sent("no line break at the end", [*LINES[:-1], b"data: [DONE]"], SSE),
    _hello("no DONE", *HELLO),
    _hello("no finish reason, but DONE", *HELLO[:3], "[DONE]"),
    _hello("words after DONE", *HELLO, "[DONE]", chunk(" And more."), "[DONE]"),
    _sent("says stream, sends JSON", [WHOLE], SSE),
    _sent("says JSON, sends a stream", LINES, JSON),
    _sent("says text, sends a stream", LINES, {"content-type": "text/plain"}),
    _sent("says text, sends JSON", [WHOLE], {"content-type": "text/plain; charset=utf-8"}),
    _sent("says HTML, sends JSON", [WHOLE], {"content-type": "text/html"}),
    _sent("says nothing, sends JSON", [WHOLE], {}),
    _sent("says octets, sends a stream", LINES, {"content-type": "application/octet-stream"}),
    _sent("says problem+json, sends JSON", [WHOLE], {"content-type": "application/problem+json"}),
    _sent("lines of JSON", [json.dumps(c).encode() + b"\n" for c in HELLO], {"content-type": "application/x-ndjson"}),
    _sent("JSON after spaces", [b"\n \n", b" ", WHOLE], JSON),
    _sent("JSON with a byte order mark", [b"\xef\xbb\xbf" + WHOLE], JSON),
    _sent("gzip, whole", [gzip.compress(WHOLE)], {**JSON, "content-encoding": "gzip"}),
    _sent("gzip, streamed", [gzip.compress(b"".join(LINES))], {**SSE, "content-encoding": "gzip"}),
    _sent("an emoji cut in its bytes", [SMILE[:MIDDLE], SMILE[MIDDLE:], *LINES[-2:]], SSE, "😀"),
    _hello("an emoji cut in its surrogates", chunk("Hm \ud83d"), chunk("\ude00!"), HELLO[3], "[DONE]", shows="Hm 😀!"),
    _hello("half an emoji, then another text", chunk("\ud83d"), *HELLO, "[DONE]"),
    _hello("delta null", {"choices": [{"index": 0, "delta": None}]}, *HELLO, "[DONE]"),
    _hello("delta missing", {"choices": [{"index": 0}]}, *HELLO, "[DONE]"),
    _hello("choices empty, with filter results", {"choices": [], "prompt_filter_results": [{}]}, *HELLO, "[DONE]"),
    _hello("choices null", {"choices": None}, *HELLO, "[DONE]"),
    _hello("choices missing", {"id": "c1"}, *HELLO, {"usage": USAGE["usage"]}, "[DONE]"),
    _hello("an empty object", {}, *HELLO, "[DONE]"),
    _hello("error null", *[{**step, "error": None} for step in HELLO], "[DONE]"),
    _hello("usage in each chunk", *[{**step, "usage": USAGE["usage"]} for step in HELLO], "[DONE]"),
    _hello("usage of nonsense", *HELLO, {"choices": [], "usage": {"prompt_tokens": "7", "completion_tokens": -1.5}}),
    _hello("usage a list", *HELLO, {"choices": [], "usage": [1, 2]}, "[DONE]"),
    _hello("model a number", *[{**step, "model": 7} for step in HELLO], "[DONE]"),
    _hello("model an object", *[{**step, "model": {"name": "x"}} for step in HELLO], "[DONE]"),
    _hello("index of the choice a text", *[{"choices": [{**c["choices"][0], "index": "0"}]} for c in HELLO], "[DONE]"),
    _hello("a second choice", *HELLO[:3], {"choices": [{"index": 1, "delta": {"content": "No."}}]}, HELLO[3], "[DONE]"),
    _hello("finish reason twice", *HELLO, chunk(finish="stop"), "[DONE]"),
    _hello("content after the finish reason", HELLO[1], chunk("", finish="stop"), chunk("I am."), "[DONE]"),
    _hello("message for delta", {"choices": [{"index": 0, "message": {"content": "Here I am."}}]}, HELLO[3], "[DONE]"),
    _hello(
        "parts in a delta",
        {"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": "Here I am."}]}}]},
        HELLO[3],
        "[DONE]",
    ),
    _calls("index missing", _part(ECHO), END),
    _calls(
        "index missing, in pieces",
        _part(function("echo", "")),
        _part(_piece(..., A[:5])),
        _part(_piece(..., A[5:])),
        END,
    ),
    _calls("index null", _part(_at(None, ECHO)), END),
    _calls("index a text", _part(_at("0", ECHO)), END),
    _calls("index a float", _part(_at(0.0, ECHO)), END),
    _calls("index from 1", _part(_at(1, ECHO)), _part(_at(2, function("now", "{}", "b"))), END, told=TWO),
    _calls("index 0 for both", _part(_at(0, ECHO), _at(0, function("now", "{}", "b"))), END, told=TWO),
    _calls(
        "index 0 for both, no ids",
        _part(_at(0, function("echo", A, ...))),
        _part(_at(0, function("now", "{}", ...))),
        END,
        told=TWO,
    ),
    _calls("tail under another index", _part(_at(0, function("echo", A[:4]))), _part(_piece(1, A[4:])), END),
    _calls(
        "second call's tail under its own index",
        _part(_at(0, ECHO)),
        _part(_at(0, function("store", '{"da', "b"))),
        _part(_piece(1, 'ta": {}}')),
        END,
        told=("echo[a]", "stored 0"),
    ),
    _calls(
        "interleaved",
        _part(_at(0, function("echo", "", "a")), _at(1, function("store", "", "b"))),
        _part(_piece(0, A[:6]), _piece(1, '{"data"')),
        _part(_piece(1, ": {}}"), _piece(0, A[6:])),
        END,
        told=("echo[a]", "stored 0"),
    ),
    _calls(
        "name in pieces",
        _part(_at(0, function("ec", ""))),
        _part({"index": 0, "function": {"name": "ho", "arguments": A}}),
        END,
        told=(ANY,),
    ),
    _calls(
        "name after the arguments",
        _part(_piece(0, A[:6], id="a")),
        _part({"index": 0, "function": {"name": "echo", "arguments": A[6:]}}),
        END,
    ),
    _calls("name in each", _part(_at(0, function("echo", A[:6]))), _part(_at(0, function("echo", A[6:]))), END),
    _calls("id in the last only", _part(_at(0, function("echo", A, ...))), _part({"index": 0, "id": "late"}), END),
    _calls(
        "another id in each", _part(_at(0, function("echo", A[:6], "a1"))), _part({**_piece(0, A[6:]), "id": "a2"}), END
    ),
    _calls("the whole call twice", _part(_at(0, ECHO)), _part(_at(0, ECHO)), END),
    _calls(
        "a finish reason for each",
        _part(_at(0, ECHO), finish="tool_calls"),
        _part(_at(1, function("now", "{}", "b")), finish="tool_calls"),
        told=TWO,
    ),
    _calls(
        "a finish reason for each, 1.5 s apart",
        *(_part(_at(0, ECHO), finish="tool_calls"), Pause(1.5)),
        _part(_at(1, function("now", "{}", "b")), finish="tool_calls"),
        told=TWO,
    ),
    _calls("finish stop", _part(_at(0, ECHO)), chunk(finish="stop")),
    _calls("no finish reason", _part(_at(0, ECHO))),
    _calls("text between", _part(_at(0, function("echo", A[:6]))), chunk("Hm."), _part(_piece(0, A[6:])), END),
    _calls(
        "broken in one of two",
        _part(_at(0, function("echo", "{")), _at(1, function("now", "{}", "b"))),
        END,
        told=(ERROR, "noon"),
    ),
)

HEAD = event(chunk("The ans", role="assistant"))
SERVER_ERROR = {"error": {"message": "upstream broke", "code": 502}}
OBJECT_ERROR = {"object": "error", "message": "the engine died", "type": "server_error", "code": 500}

FAILURES = (
    *(
        kind(name, reply)
        for kind in (_once, _gives_up)
        for name, reply in {
            "the connection ends before the head": Reply(before=[Cut()]),
            "the connection ends in a word": Reply([HEAD, Cut()], headers=SSE),
            "the stream ends in a word": Reply([HEAD], headers=SSE),
            "the connection ends in a call": Reply([event(_part(_at(0, function("echo", A[:6])))), Cut()], headers=SSE),
            "an error in the stream": events(SERVER_ERROR),
            "an error after some text": events(chunk("The ans"), SERVER_ERROR),
            "an error whose message is null": events({"error": {"message": None, "code": 500}}),
            "an error that is a text": events({"error": "overloaded"}),
            "an object of error": Reply([json.dumps(OBJECT_ERROR).encode()]),
            "an object of error, streamed": events(OBJECT_ERROR),
            "an event of error": Reply(
                [b'event: error\ndata: {"message": "capacity", "type": "overloaded"}\n\n'], headers=SSE
            ),
            "a detail with status 200": Reply([b'{"detail": "not loaded"}']),
            "HTML with status 200": Reply([b"<html>Sign in</html>"], headers={"content-type": "text/html"}),
            "an empty body": Reply([]),
            "an empty stream": Reply([], headers=SSE),
            "DONE and nothing else": events("[DONE]"),
            "status 204": Reply([], 204),
            "JSON null": Reply([b"null"]),
            "JSON of a list": Reply([b"[]"]),
            "choices empty": completion(None, choices=[]),
            "broken JSON in the stream": events(b"data: {broken\n\n", *HELLO),
            "bytes that are no text": Reply([b"data: \xff\xfe\xfa\n\n"], headers=SSE),
            "a gzip that is none": Reply([b"no gzip"], headers={**JSON, "content-encoding": "gzip"}),
            "status 500": refusal(500, "out of order"),
            "status 429": refusal(429, "slow down", retry_after="0"),
        }.items()
    ),
    *(
        _gives_up(f"JSON of {name}", Reply([json.dumps(found).encode()]), Ends.TOLD)
        for name, found in {
            "a message that is a text": {"choices": [{"message": "hello"}]},
            "legacy completions": {"choices": [{"text": "hello", "finish_reason": "stop"}]},
            "Ollama's own API": {"message": {"role": "assistant", "content": "Hello"}, "done": True},
            "Anthropic's own API": {"type": "message", "content": [{"type": "text", "text": "Hello"}]},
            "OpenAI's responses": {"object": "response", "output": [{"type": "message"}]},
            "choices that are an object": {"choices": {"0": {"message": {"content": "Hi"}}}},
            "a choice that is null": {"choices": [None]},
            "a text": "hello",
        }.items()
    ),
    _gives_up(
        "5 MB", Reply([b'{"choices": [{"message": {"content": "', b"word " * 1_000_000, b'"}}]}']), Ends.EXPLAINED
    ),
    _gives_up("status 302", Reply([], 302, {"location": "/elsewhere"})),
    _gives_up("status 413", refusal(413, "too large")),
    _gives_up("status 400 of a call", refusal(400, "Failed to call a function. Adjust your prompt.")),
    _gives_up("status 400 of a prompt too long", refusal(400, "This model's maximum context length is 10 tokens.")),
    _gives_up("status 401", refusal(401, "who are you?")),
    _gives_up("status 404", refusal(404, "no such model")),
    _gives_up("status 422 of FastAPI", Reply([b'{"detail": [{"loc": ["body"], "msg": "no"}]}'], 422)),
    _gives_up("status 451 with HTML", Reply([b"<html>no</html>"], 451, {"content-type": "text/html"})),
)
