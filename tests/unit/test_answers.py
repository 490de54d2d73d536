"""Answers are classified by their finish reason, in the spelling of any endpoint, and by their content."""

import pytest

from domain.models.answers import EMPTY_HINT, check_answer, end_of, finish_of, is_blank, with_hint
from domain.models.chat import (
    AnswerCut,
    AnswerEmpty,
    AnswerFiltered,
    ChatAnswer,
    ChatMessage,
    ModelError,
    ToolCall,
    Usage,
)

LOOK = (ToolCall("a", "look", {}),)


def answer(
    content: str | None = "yes", finish: str = "stop", calls: tuple[ToolCall, ...] = (), *, refused: bool = False
) -> ChatAnswer:
    return ChatAnswer(content, calls, finish, "m", Usage(10, 2), refused=refused)


def refusal_of(told: ChatAnswer) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_answer(told)
    return caught.value


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("stop", "usual"),
        ("STOP", "usual"),
        ("end_turn", "usual"),
        ("", "usual"),
        ("tool_calls", "calls"),
        ("tool-calls", "calls"),
        ("function_call", "calls"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("FinishReason.MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),
        ("content_filter", "filtered"),
        ("content-filter", "filtered"),
        ("contentFilter", "filtered"),
        ("SAFETY", "filtered"),
        ("guardrail_intervened", "filtered"),
        ("refusal", "refused"),
        ("error", "broken"),
        ("network_error", "broken"),
        ("abort", "broken"),
        ("insufficient_system_resource", "broken"),
        ("because", "unknown"),
    ],
)
def test_the_same_end_has_many_names(reason: str, end: str) -> None:
    assert end_of(reason) == end


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "\u200b\ufeff\u00a0\u3000",
        "\x00",
        "<think>what is asked?</think>",
        "<think>\nwhat is asked?\n</think>\n\n",
        "<think>what is as",
        "<Thinking>hm</Thinking> ",
        "<|im_end|>",
        "</s>\n",
    ],
)
def test_nothing_to_read_is_no_answer(text: str) -> None:
    assert is_blank(text)
    assert type(refusal_of(answer(text))) is AnswerEmpty


@pytest.mark.parametrize(
    "text", ["0", ".", "🙂", "是", "<think>hm</think>4", "4 <think>", "<b></b>", "</think>", "<s>a</s>", " \u200bx"]
)
def test_what_can_be_read_is_an_answer(text: str) -> None:
    assert not is_blank(text)
    check_answer(answer(text))


@pytest.mark.parametrize("content", [None, "", "so I look"])
@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", "length", "because"])
def test_a_call_is_an_answer(content: str | None, finish: str) -> None:
    told = answer(content, finish, LOOK)
    check_answer(told)
    assert finish_of(told) == ""


@pytest.mark.parametrize(
    ("told", "kind", "transient"),
    [
        (answer("hel", "error"), AnswerCut, True),
        (answer("", "error"), AnswerCut, True),
        (answer(None, "error", LOOK), AnswerCut, True),
        (answer("hel", "content_filter"), AnswerFiltered, False),
        (answer("", "content_filter"), AnswerFiltered, False),
        (answer(None, "content_filter", LOOK), AnswerFiltered, False),
        (answer("", "refusal"), AnswerFiltered, False),
        (answer("", "tool_calls"), AnswerEmpty, False),
        (answer("", "length"), AnswerEmpty, False),
        (answer("", "because"), AnswerEmpty, False),
    ],
)
def test_what_only_looks_like_an_answer_is_refused_with_its_cost(
    told: ChatAnswer, kind: type[ModelError], *, transient: bool
) -> None:
    error = refusal_of(told)
    assert (type(error), error.transient) == (kind, transient)
    assert (error.accepted, error.usage, error.finish_reason) == (True, told.usage, told.finish_reason)
    assert repr(told.finish_reason) in str(error)


@pytest.mark.parametrize(
    ("told", "finish"),
    [
        (answer(), ""),
        (answer("half of", "length"), "length"),
        (answer("I cannot.", refused=True), "refusal"),
        (answer("I cannot.", "refusal"), "refusal"),
        (answer("hello", "because"), "unknown_finish"),
        (answer("Let me look.", "tool_calls"), "unknown_finish"),
    ],
)
def test_what_is_to_be_known_of_an_answer(told: ChatAnswer, finish: str) -> None:
    check_answer(told)
    assert finish_of(told) == finish


def test_a_hint_joins_the_last_message_so_that_roles_alternate() -> None:
    system, user = ChatMessage("system", "Be brief."), ChatMessage("user", "Well?")
    told = ChatMessage("tool", None, tool_call_id="a", name="look")
    assert with_hint((system, user), EMPTY_HINT) == (system, ChatMessage("user", f"Well?\n\n{EMPTY_HINT}"))
    assert with_hint((user, told), EMPTY_HINT)[-1] == ChatMessage("tool", EMPTY_HINT, tool_call_id="a", name="look")
    assert with_hint((user, ChatMessage("assistant", "Hm")), EMPTY_HINT)[-1] == ChatMessage("user", EMPTY_HINT)
    assert with_hint((user,), "") == (user,)
