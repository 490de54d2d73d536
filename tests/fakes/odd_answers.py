"""Odd answers of models and endpoints, as data: what comes, how the turn has to end, and what the transcript shows.

Each kind was seen with some model or endpoint, or is one step beyond what was seen. The tools are `echo(text)`,
`now()` and `store(data)`.
"""

import json
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from domain.json import storable_text
from tests.fakes.strict_model import Answer, Played, function


class Ends(Enum):
    """How a turn has to end, at the least."""

    ANSWERED = auto()  # completed, without a reason, and there is a text to read
    EXPLAINED = auto()  # completed or failed, with a reason
    TOLD = auto()  # ANSWERED or EXPLAINED: what was sent may be understood or not
    MENDED = auto()  # ANSWERED by a further call of the model, or else EXPLAINED
    FAILED = auto()  # failed, with a reason


ERROR = "<an error>"
"""Among `Odd.told`: the call's result is an error."""


class Odd(Struct, frozen=True):
    """An odd answer. `repeat`: the endpoint gives the last of `played` to every request of the turn.

    `told`: what the results of the calls contain, one by one. `shows`: what the transcript contains. `asks`: how often
    the model is asked. `own_fields`: fields of the answer that the endpoint takes back, and demands with a call.
    """

    name: str
    played: Sequence[Played]
    ends: Ends = Ends.ANSWERED
    repeat: bool = False
    told: Sequence[str] | None = None
    shows: Sequence[str] = ()
    asks: int | None = None
    own_fields: Sequence[str] = ()


def _call(name: str, *calls: Any, finish: Any = "tool_calls", **expected: Any) -> Odd:
    """Ask for tools, and expect one more call of the model after their results."""
    message = {"content": None, "tool_calls": list(calls)}
    return Odd(name, [Answer(message, finish)], **{"asks": 2, **expected})


def _named(name: str, given: str) -> Odd:
    """Ask for a tool of an odd name: it does not exist, the model hears so, and the transcript shows the name."""
    shown = json.dumps(storable_text(given)[:200], ensure_ascii=False)[1:-1]
    return _call(f"name {name}", function(given), told=[ERROR], shows=[shown])


def _argued(name: str, arguments: Any, told: str = ERROR, tool: str = "echo") -> Odd:
    return _call(f"arguments {name}", function(tool, arguments), told=[told])


def _said(name: str, content: Any, ends: Ends = Ends.ANSWERED, finish: Any = "stop", **rest: Any) -> Odd:
    expected = {key: rest.pop(key) for key in ("shows", "repeat", "asks", "own_fields") if key in rest}
    return Odd(name, [Answer({"content": content, **rest}, finish)], ends, **expected)


A = '{"text": "a"}'
ECHO = function("echo", A)
ANY = ""
"""Among `Odd.told`: whatever the result is. The arguments may be understood or not, as long as they are not guessed."""

NAMES = (
    _named("with dots", "browser.tabs.open"),
    _named("with a control token", "echo<|channel|>commentary"),
    _named("of 8,000 characters", "x" * 8_000),
    _named("of 65 characters", "y" * 65),
    _named("with a space", "get weather"),
    _named("with umlauts", "wetter_für_köln"),
    _named("in Chinese", "查询天气"),
    _named("of an emoji", "🔧"),
    _named("with slashes", "functions/echo/v1"),
    _named("with colons", "mcp::files::read"),
    _named("that begins with a digit", "2fast"),
    _named("that begins with a dash", "-echo"),
    _named("of underscores", "____"),
    _named("that is JSON", '{"name": "echo"}'),
    _named("that is XML", "<function=echo>"),
    _named("in upper case", "ECHO"),
    _named("of a prototype", "__proto__"),
    _named("with a line break within", "echo\nnow"),
    _named("written from right to left", "\u202eohce"),
    _named("with NUL", "ec\0ho!"),
    _named("with half a character", "echo_\ud83d"),
    _call("name with spaces around", function(" echo ", A), told=[ANY]),
    _call("names that look alike", function("a.b", call_id="x1"), function("a b", call_id="x2"), told=[ERROR, ERROR]),
    _call("name like a tool's once mended", function("now!", call_id="x1"), ECHO, told=[ERROR, "echo[a]"]),
    _call("names unknown, five at once", *(function(f"un.known.{n}", "{}", f"u{n}") for n in range(5)), asks=2),
    _call("name empty", function("", A), ends=Ends.MENDED, asks=None),
    _call("name of spaces", function("  ", A), ends=Ends.MENDED, asks=None),
    _call("name null", function(None, A), ends=Ends.MENDED, asks=None),
    _call("name missing", function(..., A), ends=Ends.MENDED, asks=None),
    _call("name a number", function(7, A), ends=Ends.MENDED, asks=None),
    _call("name missing beside a good call", function(..., A, "x1"), function("now", "{}", "x2"), shows=["noon"]),
)

TWO: dict[str, Any] = {"told": ["echo[a]", "noon"]}

IDS = (
    _call("id used for two calls", ECHO, function("now"), **TWO),
    _call("id that we make ourselves", function("echo", A, "call_1"), told=["echo[a]"]),
    _call("id that the next answers use again", function("echo", A, "call_again"), told=["echo[a]"]),
    _call("id missing", function("echo", A, ...), function("now", "{}", ...), **TWO),
    _call("id null", function("echo", A, None), function("now", "{}", None), **TWO),
    _call("id empty", function("echo", A, ""), function("now", "{}", ""), **TWO),
    _call("id a number", function("echo", A, 0), function("now", "{}", 1), **TWO),
    _call("id of spaces", function("echo", A, "  "), function("now", "{}", "   "), **TWO),
    _call("id of 5,000 characters", function("echo", A, "i" * 5_000), told=["echo[a]"]),
    _call(
        *("ids alike for 64 characters", function("echo", A, "i" * 64 + "a"), function("now", "{}", "i" * 64 + "b")),
        **TWO,
    ),
    _call("ids alike but for the case", function("echo", A, "abcdefghi"), function("now", "{}", "ABCDEFGHI"), **TWO),
    _call("id in Cyrillic", function("echo", A, "вызов_1"), told=["echo[a]"]),
    _call("id with a line break", function("echo", A, "call\n1"), told=["echo[a]"]),
    _call("id with half a character", function("echo", A, "call_\ud83d"), told=["echo[a]"]),
    _call("id with NUL", function("echo", A, "call\0"), told=["echo[a]"]),
    _call("id a boolean", function("echo", A, call_id=True), ends=Ends.MENDED, asks=None),
    _call("id an object", function("echo", A, {"id": "a"}), ends=Ends.MENDED, asks=None),
    _call("id of nine characters already", function("echo", A, "abcdefghi"), told=["echo[a]"]),
    _call("ids missing and ours mixed", function("echo", A, ...), function("now", "{}", "call_1"), **TWO),
    _call("id with a tool's name", function("now", "{}", "functions.now:0"), told=["noon"]),
)

ARGUMENTS = (
    _argued("null", "null", ANY),
    _argued("the text null for no parameters", "null", ANY, tool="now"),
    _argued("with a trailing comma", '{"text": "a",}', ANY),
    _argued("with a raw line break", '{"text": "two\nlines"}', ANY),
    _argued("with a raw tab", '{"text": "a\tb"}', ANY),
    _argued("in a code fence", f"```json\n{A}\n```", ANY),
    _argued("in single quotes", "{'text': 'a'}", ANY),
    _argued("with keys without quotes", '{text: "a"}', ANY),
    _argued("with a comment", '{"text": "a" /* the text */}', ANY),
    _argued("with a byte order mark", f"\ufeff{A}", ANY),
    _argued("with words after", f"{A} I hope this helps!", ANY),
    _argued("twice encoded", json.dumps(A), ANY),
    _argued("encoded three times", json.dumps(json.dumps(json.dumps({"text": "a"}))), ANY),
    _argued("between invisible characters", '\u200b{"text": "a"}\u200b', ANY),
    _argued("in full-width braces", '\uff5b"text"\uff1a"a"\uff5d', ANY),
    _argued("in typographic quotes", "{\u201ctext\u201d: \u201ca\u201d}", ANY),
    _argued("of YAML", "text: a", ANY),
    _argued("of a query", "text=a", ANY),
    _argued("with a hexadecimal number", '{"data": {"x": 0x1F}}', ANY, tool="store"),
    _argued("with a number too small", '{"data": {"x": 1e-400}}', ANY, tool="store"),
    _argued("with half a character in a key", '{"data": {"\\ud83d": 1}}', ANY, tool="store"),
    _argued("with NUL in a key", '{"data": {"a\\u0000": 1}}', ANY, tool="store"),
    _argued("of nothing, then an object", "{}" + A, ANY),
    _argued("of two objects", A + '{"text": "b"}'),
    _argued("cut off", '{"text": "abc'),
    _argued("cut off after the key", '{"text":'),
    _argued("of an opening brace", "{"),
    _argued("with NaN", '{"data": {"x": NaN}}', tool="store"),
    _argued("with Infinity", '{"data": {"x": -Infinity}}', tool="store"),
    _argued("with 1e999", '{"data": {"x": 1e999}}', tool="store"),
    _argued("with an integer of 40 digits", '{"data": {"x": 1' + "0" * 40 + "}}", ANY, tool="store"),
    _argued("with an integer of 5,000 digits", '{"data": {"x": 1' + "0" * 5_000 + "}}", ANY, tool="store"),
    _argued("nested 5,000 deep", '{"data": {"x": ' + "[" * 5_000 + "]" * 5_000 + "}}", ANY, tool="store"),
    _argued("with half a character", '{"text": "a\\ud83d"}', ANY),
    _argued("with NUL", '{"text": "a\\u0000b"}', ANY),
    _argued("a list", "[]", ANY),
    _argued("a list of an object", f"[{A}]", ANY),
    _argued("true", "true"),
    _argued("a number", "5"),
    _argued("of words", "text is a"),
    _argued("undefined", "undefined"),
    _argued("of XML", "<text>a</text>"),
    _argued("of a Python call", 'echo(text="a")'),
    _argued("of a wrong type", '{"text": {"a": 1}}'),
    _argued("with an unknown key", '{"texts": "a"}'),
    _argued("with a key twice", '{"text": "a", "text": "b"}', ANY),
    _argued("with an empty key", '{"": "a"}'),
    _argued("an object, not text", {"text": "a"}, "echo[a]"),
    _argued("a list, not text", ["a"]),
    _argued("a number, not text", 5),
    _argued("false, not text", arguments=False, told=ANY),
    _argued("of spaces", " \n ", "echo[]"),
    _argued("missing", ..., "echo[]"),
    _call(
        *("arguments of 200,000 characters", function("echo", json.dumps({"text": "long " * 40_000}))),
        ends=Ends.EXPLAINED,  # no prompt has room for them
        asks=None,
    ),
    _call(
        *("arguments broken beside good ones", function("echo", '{"text": "a', "x1"), function("now", "{}", "x2")),
        told=[ERROR, "noon"],
    ),
    _call("arguments all broken", *(function("echo", "{" * n, f"x{n}") for n in range(1, 4)), told=[ERROR] * 3),
    _call("arguments cut off by length", function("echo", '{"text": "abc'), finish="length", told=[ERROR]),
)

LEGACY = {"name": "echo", "arguments": A}

FINISH_REASONS = (
    _said("finish length in a sentence", "The answer is", Ends.EXPLAINED, "length", shows=["The answer is"]),
    _said("finish length, nothing said", "", Ends.MENDED, "length"),
    _said("finish model_length", "The answer is", Ends.EXPLAINED, "model_length", shows=["The answer is"]),
    _said("finish max_tokens", "The answer is", Ends.EXPLAINED, "max_tokens", shows=["The answer is"]),
    _said("finish MAX_TOKENS", "The answer is", Ends.EXPLAINED, "MAX_TOKENS", shows=["The answer is"]),
    _said("finish content_filter in a sentence", "You take the", Ends.EXPLAINED, "content_filter"),
    _said("finish content_filter, nothing said", "", Ends.EXPLAINED, "content_filter", repeat=True),
    _said("finish SAFETY, nothing said", None, Ends.EXPLAINED, "SAFETY", repeat=True),
    _said("finish RECITATION in a sentence", "It was the best of", Ends.EXPLAINED, "RECITATION"),
    _said("finish sensitive", "", Ends.EXPLAINED, "sensitive", repeat=True),
    _said("finish error in a word", "The ans", Ends.MENDED, "error"),
    _said("finish network_error", "The ans", Ends.MENDED, "network_error"),
    _said("finish insufficient_system_resource", "The ans", Ends.MENDED, "insufficient_system_resource"),
    _said("finish abort", "The ans", Ends.MENDED, "abort"),
    _said("finish MALFORMED_FUNCTION_CALL", None, Ends.MENDED, "MALFORMED_FUNCTION_CALL"),
    _said("finish tool_calls without any", "", Ends.MENDED, "tool_calls"),
    _said("finish tool_calls after a sentence", "Let me look.", Ends.TOLD, "tool_calls"),
    _said("finish null", "All is well.", finish=None, shows=["All is well."]),
    _said("finish empty", "All is well.", finish="", shows=["All is well."]),
    _said("finish end_turn", "All is well.", finish="end_turn", shows=["All is well."]),
    _said("finish eos", "All is well.", finish="eos", shows=["All is well."]),
    _said("finish STOP", "All is well.", finish="STOP", shows=["All is well."]),
    _said("finish a number", "All is well.", finish=1, shows=["All is well."]),
    _said("finish a list", "All is well.", Ends.TOLD, ["stop"]),
    _said("finish an object", "All is well.", Ends.TOLD, {"type": "stop"}),
    _said("finish of 5,000 characters", "All is well.", Ends.TOLD, "x" * 5_000),
    _said("finish with NUL", "All is well.", Ends.TOLD, "sto\0p"),
    _said("finish with half a character", "All is well.", Ends.TOLD, "stop\ud83d"),
    _call("finish stop, with a call", ECHO, finish="stop", told=["echo[a]"]),
    _call("finish null, with a call", ECHO, finish=None, told=["echo[a]"]),
    _call("finish length, with a whole call", ECHO, finish="length", ends=Ends.MENDED, told=[ANY]),
    _call("finish content_filter, with a call", ECHO, finish="content_filter", ends=Ends.MENDED, asks=None),
    _said("function_call of old", None, Ends.MENDED, "function_call", function_call=LEGACY),
    _said("function_call of old, finish stop", "", Ends.MENDED, "stop", function_call=LEGACY),
)

SIGNED = {"extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
TEXT = {"type": "text", "text": "Here I am."}
DEEP = json.loads('{"a":' * 200 + "1" + "}" * 200)
DETAILS = [{"type": "reasoning.text", "text": "Hm."}]
HERE: dict[str, Any] = {"shows": ["Here I am."]}
CUSTOM = {"id": "a", "type": "custom", "custom": {"name": "echo", "input": "a"}}

PARTS = (
    _said("content in parts", [{"type": "text", "text": "Here "}, {"type": "text", "text": "I am."}], **HERE),
    _said("content in output_text parts", [{"type": "output_text", "text": "Here I am."}], **HERE),
    _said("content of thoughts and text", [THOUGHT, TEXT], **HERE),
    _said("content of thoughts only", [THOUGHT], Ends.MENDED),
    _said("content with a picture", [TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
    _said("content an empty list", [], Ends.MENDED),
    _said("content a list of strings", ["Here ", "I am."], Ends.TOLD),
    _said("content an object", TEXT, Ends.TOLD),
    _said("content a number", 42, Ends.TOLD),
    _said("content empty", "", Ends.MENDED),
    _said("content null", None, Ends.MENDED),
    _said("content of line breaks", " \n\n ", Ends.MENDED),
    _said("content of invisible characters", "\u200b\u2060\ufeff", Ends.MENDED),
    _said("content with half a character", "Here I am.\ud83d", **HERE),
    _said("content with NUL", "Here I am.\0", **HERE),
    _said("content of control tokens", "<|im_end|><|im_start|>user\nHere I am.", **HERE),
    _said("content of 300,000 characters", "Here I am. " * 27_000, **HERE),
    _said("content of think tags and text", "<think>Hm.</think>Here I am.", **HERE),
    _said(
        "reasoning_content, then text", "Here I am.", reasoning_content="Hm.", own_fields=["reasoning_content"], **HERE
    ),
    _said("reasoning_content only", "", Ends.MENDED, reasoning_content="I think it is noon."),
    _said("reasoning_content only, cut", "", Ends.MENDED, "length", reasoning_content="I think"),
    _said("reasoning only", "", Ends.MENDED, reasoning="I think."),
    _said("refusal", None, Ends.TOLD, refusal="I cannot help with that.", shows=["I cannot help with that."]),
    _said("audio", None, Ends.MENDED, audio={"id": "audio_1", "data": "AA=="}),
    _said(
        "annotations and citations",
        "Here I am.",
        annotations=[{"type": "url_citation"}],
        citations=["x"],
        own_fields=["citations"],
        **HERE,
    ),
    _said("role of a tool", "Here I am.", role="tool", **HERE),
    _said("role null", "Here I am.", role=None, tool_calls=None, function_call=None, refusal=None, **HERE),
    _said("text that looks like a call", '<tool_call>\n{"name": "echo", "arguments": {}}\n</tool_call>', Ends.TOLD),
    _call("text beside a call", ECHO, told=["echo[a]"]),
    Odd("line breaks beside a call", [Answer({"content": "\n\n", "tool_calls": [ECHO]}, "tool_calls")], asks=2),
    _call(
        "calls 64 at once", *(function("echo", f'{{"text": "{n}"}}', f"c{n}") for n in range(64)), shows=["echo[63]"]
    ),
    _call("call signed by the provider", {**ECHO, **SIGNED}, own_fields=["extra_content"], told=["echo[a]"]),
    Odd(
        "reasoning_content beside a call",
        [Answer({"content": "", "reasoning_content": "I need the tool.", "tool_calls": [ECHO]}, "tool_calls")],
        own_fields=["reasoning_content"],
        told=["echo[a]"],
        asks=2,
    ),
    _said("call that is null", "", Ends.MENDED, "tool_calls", tool_calls=[None]),
    _said("call without a function", "", Ends.MENDED, "tool_calls", tool_calls=[{"id": "a", "function": None}]),
    _said("calls an object", None, Ends.MENDED, "tool_calls", tool_calls=ECHO),
    _said("calls a text", None, Ends.MENDED, "tool_calls", tool_calls="echo"),
    _said("calls an empty list", "Here I am.", tool_calls=[], **HERE),
    _said("function_call of old a text", None, Ends.MENDED, "function_call", function_call="echo"),
    _said("function_call of old without a name", None, Ends.MENDED, "function_call", function_call={"arguments": "{}"}),
    _said("content false", content=False, ends=Ends.TOLD),
    _said("content of lists in lists", [[["Here I am."]]], Ends.TOLD),
    _said("content a list of null", [None], Ends.MENDED),
    _said("content a part without text", [{"type": "text"}], Ends.MENDED),
    _said("content a part whose text is a number", [{"type": "text", "text": 5}], Ends.TOLD),
    _said("content a part whose text is an object", [{"type": "text", "text": {"value": "Here I am."}}], Ends.TOLD),
    _said("content of think tags only", "<think>Hm.</think>", Ends.MENDED),
    _said("content of think tags without an end", "<thinking>Hm.", Ends.MENDED),
    _said("data of the provider 200 deep", "Here I am.", odd_data=DEEP, own_fields=["odd_data"], **HERE),
    _said(
        "data of the provider of 200,000 bytes", "Here I am.", odd_data="x" * 200_000, own_fields=["odd_data"], **HERE
    ),
    _said("reasoning_details", "Here I am.", reasoning_details=DETAILS, own_fields=["reasoning_details"], **HERE),
    _call("call without a type", {"id": "a", "function": {"name": "echo", "arguments": A}}, told=["echo[a]"]),
    _call("call a text among calls", "echo", ends=Ends.MENDED, asks=None),
    _call("call that is null beside a good one", ECHO, None, told=["echo[a]"]),
    _said("call of a custom tool", None, Ends.MENDED, "tool_calls", tool_calls=[CUSTOM]),
)

ALWAYS = tuple(
    replace(odd, name=f"{odd.name}, always", ends=Ends.EXPLAINED, repeat=True, told=None, asks=None, shows=())
    for odd in (*NAMES, *IDS, *ARGUMENTS[::9], *FINISH_REASONS, *PARTS)
    if odd.ends is Ends.MENDED or (odd.told and ERROR in odd.told and odd in ARGUMENTS)
)
"""The same answers where the model gives no other one: the turn cannot be mended, and has to say why."""
