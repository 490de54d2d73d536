"""Refusals of an endpoint's own data, and of tool calls of other models."""

import json

import pytest

from domain.models.chat import ChatMessage, ChatRequest, ToolCall
from infrastructure.models.openai.provider_data import DATA, without_data
from infrastructure.models.openai.refusals import FOREIGN_CALLS, refused_data, refuses_foreign_calls

CALL = ToolCall("a", "echo", {}, extra={"extra_content": {"google": 1}})
OWN = ChatMessage("assistant", "hm", (CALL,), extra={"reasoning": "x", "reasoning_details": []}, origin="here")
PLAIN = ChatMessage("assistant", None, (ToolCall("b", "echo", {}),))


def refused(said: object, *messages: ChatMessage, omitted: frozenset[str] = frozenset()) -> str | None:
    body = said if isinstance(said, str) else json.dumps(said)
    return refused_data(body, ChatRequest(messages or (OWN,)), "here", omitted)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"error": {"message": "'messages.2' : property 'reasoning' is unsupported"}}, "reasoning"),
        (
            {"error": {"message": "Unrecognized request argument", "param": "messages[1].reasoning_details"}},
            "reasoning_details",
        ),
        (
            {
                "detail": [
                    {"loc": ["body", "messages", 1, "assistant", "reasoning"], "msg": "Extra inputs are not permitted"}
                ]
            },
            "reasoning",
        ),
        (
            {"object": "error", "message": "Unknown name \"extra_content\" at 'messages[1]': Cannot find field."},
            "extra_content",
        ),
        ("Please remove the reasoning from your message.", "reasoning"),
    ],
)
def test_a_field_that_the_endpoint_sent_itself_is_named(said: object, name: str) -> None:
    assert refused(said) == DATA + name
    assert refused(said, omitted=frozenset({DATA + name})) is None
    assert refused(said, PLAIN) is None, "it was not sent"


@pytest.mark.parametrize(
    "said",
    [
        "The reasoning effort 'extreme' is out of range.",
        "Model big-1 is not supported.",
        "'temperature' is not supported with reasoning_models",
        "reasoning must be passed back to the API",
    ],
)
def test_other_refusals_are_about_something_else(said: str) -> None:
    assert refused(said) is None


def test_calls_of_others_are_refused_only_where_there_are_some() -> None:
    def refuses(said: str, *messages: ChatMessage, omitted: frozenset[str] = frozenset()) -> bool:
        return refuses_foreign_calls(said, ChatRequest(messages), "here", omitted)

    missing = "Missing `reasoning_content` field in the assistant message at message index 2"
    assert refuses(missing, OWN, PLAIN)
    assert not refuses(missing, OWN)
    assert not refuses(missing, PLAIN, omitted=frozenset({FOREIGN_CALLS}))
    assert not refuses("The API key is missing.", PLAIN)
    assert not refuses("This model does not think.", PLAIN)


def test_only_the_named_fields_are_left_out() -> None:
    assert without_data(OWN, frozenset({"temperature"})) == OWN
    left = without_data(OWN, frozenset({DATA + "reasoning", DATA + "extra_content"}))
    assert left.extra == {"reasoning_details": []}
    assert left.tool_calls[0].extra == {}
