"""The strict validator itself: it accepts a canonical prompt, and says what is wrong with each kind of a bad one."""

import copy
from typing import Any

import pytest

from tests.support.strict_chat import violations


def asked(*ids: str, content: str = "", name: str = "echo", arguments: str = '{"text": "a"}') -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": one, "type": "function", "function": function} for one in ids],
    }


def result(of_call: str, content: str = "ok", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": of_call, "content": content, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "hello"}
SAID = {"role": "assistant", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "echo", "parameters": {"type": "object", "properties": {}}}}
ONE, TWO = "aaaaaaaa1", "aaaaaaaa2"


def of(*messages: dict[str, Any], **more: Any) -> list[str]:
    return violations(copy.deepcopy({"model": "m", "messages": list(messages), "tools": [TOOL], **more}))


def test_accepts_canonical_prompts() -> None:
    assert of(USER) == []
    assert of(SYSTEM, USER, SAID, USER) == []
    assert of(SYSTEM, USER, asked(ONE, TWO), result(ONE, name="echo"), result(TWO), SAID, USER) == []
    assert of(USER, asked(ONE), result(ONE), asked(TWO, content="again"), result(TWO)) == []


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one"),
        ([SAID, USER], "unexpected role 'assistant' after nothing"),
        ([USER, SYSTEM, USER], "system message must be the first"),
        ([USER, USER], "two user messages in a row"),
        ([USER, SAID, SAID, USER], "roles must alternate"),
        ([USER, SAID, asked(ONE), result(ONE)], "unexpected role 'assistant' after assistant"),
        ([USER, asked(ONE), result(ONE), USER], "'user' after role 'tool'"),
        ([USER, SAID], "the last one must be"),
        ([SYSTEM], "the last one must be"),
        ([USER, asked(ONE), USER], "have no result before"),
        ([USER, asked(ONE, TWO), result(ONE)], "have no result"),
        ([USER, asked(ONE, TWO), result(TWO), result(ONE)], "out of the order"),
        ([USER, asked(ONE, ONE), result(ONE), result(ONE)], "used twice"),
        ([USER, asked(ONE), result(ONE), asked(ONE), result(ONE)], "used twice"),
        ([USER, asked(ONE), result(ONE), result(TWO)], "no open call"),
        ([USER, asked("call_1"), result("call_1")], "not nine of"),
        ([USER, asked(""), result("")], "not nine of"),
        ([USER, asked(ONE, name="a.b"), result(ONE)], "does not match"),
        ([USER, asked(ONE, name="x" * 65), result(ONE)], "does not match"),
        ([USER, asked(ONE, name="1st"), result(ONE)], "does not match"),
        ([USER, asked(ONE, name="né"), result(ONE)], "does not match"),
        ([USER, asked(ONE, arguments='{"a": NaN}'), result(ONE)], "not the JSON of an object"),
        ([USER, asked(ONE, arguments="[]"), result(ONE)], "not the JSON of an object"),
        ([USER, asked(ONE), result(ONE, name="other")], "names 'other'"),
        ([USER, asked(ONE), result(ONE, "")], "visible character"),
        ([USER, asked(ONE, content=" "), result(ONE)], "visible character"),
        ([{"role": "user", "content": " \n"}], "visible character"),
        ([USER, {"role": "assistant", "content": ""}, USER], "visible character"),
        ([USER, {"role": "assistant", "content": None}, USER], "must be a text"),
        ([{"role": "user", "content": "\ud83d"}], "half of a character"),
        ([{**USER, "name": "Ann Lee"}], "name: 'Ann Lee'"),
        ([USER, {**SAID, "reasoning_content": "hm"}, USER], "'reasoning_content' is unsupported"),
        ([{"role": "function", "content": "a"}], "unknown role"),
    ],
)
def test_says_what_is_wrong(messages: list[dict[str, Any]], said: str) -> None:
    assert any(said in one for one in of(*messages)), of(*messages)


def test_knows_the_fields_of_an_endpoint_of_its_own() -> None:
    body = {"model": "m", "messages": [USER, {**SAID, "reasoning_content": "hm"}, USER]}
    assert violations(body, own_fields=["reasoning_content"]) == []


def test_wants_tools_declared_and_named_once() -> None:
    used = [USER, asked(ONE), result(ONE)]
    assert any("declares no tools" in one for one in violations({"model": "m", "messages": used}))
    assert any("declared twice" in one for one in of(USER, tools=[TOOL, TOOL]))
    assert any("at least one tool" in one for one in of(USER, tools=[]))


def formatted(schema: Any, *, strict: bool = True, name: str = "Refund") -> list[str]:
    wanted = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": strict}}
    return of(USER, response_format=wanted)


def test_checks_the_structured_output_that_is_asked_for() -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert formatted(closed) == []
    assert formatted({"type": "object", "properties": {"a": {"default": 1}}}, strict=False) == []
    assert "must contain the word 'json'" in of(USER, response_format={"type": "json_object"})[0]
    assert of({"role": "user", "content": "As JSON"}, response_format={"type": "json_object"}) == []
    assert "json_schema with its name" in formatted(closed, name="no name")[0]
    assert "json_schema with its name" in of(USER, response_format={"type": "yaml"})[0]
    assert "the root must be an object" in formatted({"type": "array"}, strict=False)[0]
    inner = {**closed, "properties": {"a": {"type": "object", "properties": {}}}}
    assert "'additionalProperties' is required" in formatted(inner)[0]
    assert "every key in properties" in formatted({**closed, "required": []})[0]
    assert "'default' is not permitted" in formatted({**closed, "properties": {"a": {"default": 1}}})[0]
    assert "$ref cannot have keywords" in formatted({**closed, "properties": {"a": {"$ref": "#", "title": "A"}}})[0]
