"""Whatever a conversation holds, its canonical prompt passes the strict validator, and grows only at its end."""

import json
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from domain.json import storable_text
from domain.models.chat import ChatMessage, ChatRequest, ToolCall, ToolSpec
from domain.prompt.canonical import CALL_ID, GO_ON, NAME, NO_ANSWER, canonical
from infrastructure.models.openai.request import write_request
from tests.support.examples import examples
from tests.support.strict_chat import violations

TOOLS = ("echo", "now", "clock-2")
odd_texts = st.sampled_from(
    [
        "",
        " ",
        "\n\n",
        "\u3000",
        "hello",
        "a.b",
        "x" * 8_000,
        "né",
        "工具",
        "<|channel|>",
        "\U0001f600",
        "\ud83d",
        "call_1",
    ]
)
texts = odd_texts | st.text(max_size=20)
names = st.sampled_from([*TOOLS, "browser.tabs.open", "echo<|channel|>x", "1st", "-x", "a b", "a_b"]) | texts
ids = st.sampled_from(["call_1", "call_1", "call_2", "abcdefgh1", "abcdefgh2"]) | texts
arguments = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=10), max_size=3)
extras: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {"reasoning_content": "hm"}, {"extra_content": {"google": {"thought_signature": "x"}}}]
)
calls = st.builds(ToolCall, ids, names, arguments, extra=extras)


def anything() -> st.SearchStrategy[ChatMessage]:
    """Messages that need not fit together."""
    return st.builds(
        ChatMessage,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.none() | texts,
        st.lists(calls, max_size=3).map(tuple),
        st.none() | ids,
        st.none() | names,
        st.none() | st.integers(-1, 3),
        extras,
        st.sampled_from(["", "here", "elsewhere"]),
    )


@st.composite
def groups(draw: st.DrawFn) -> Sequence[ChatMessage]:
    """What a thread's window can hold: a user's or an assistant's message, with the results of all its calls."""
    if draw(st.booleans()):
        return (ChatMessage("user", draw(texts)),)
    asked = draw(st.lists(calls, max_size=4))
    message = ChatMessage("assistant", draw(st.none() | texts), tuple(asked), extra=draw(extras), origin="here")
    results = [
        ChatMessage("tool", f"result {n}", tool_call_id=call.id, name=call.name, answers=n)
        for n, call in enumerate(asked)
    ]
    return (message, *draw(st.permutations(results)))


histories = st.lists(anything(), max_size=12)
windows = st.lists(groups(), min_size=1, max_size=8)
declared = st.sampled_from([TOOLS, ()])


def sent(messages: Sequence[ChatMessage], tools: Sequence[str], origin: str = "here") -> dict[str, Any]:
    specs = tuple(ToolSpec(name, "", {"type": "object"}) for name in tools)
    body = write_request(ChatRequest(tuple(messages), specs), "m", ["stream", *(["tools"] if specs else [])], origin)
    whole: dict[str, Any] = json.loads(body)
    return whole


OWN = ("reasoning_content", "extra_content")


@settings(max_examples=examples(200), deadline=None)
@given(histories, declared)
def test_any_history_makes_a_prompt_that_strict_endpoints_accept(
    history: list[ChatMessage], tools: Sequence[str]
) -> None:
    assert violations(sent(history, tools), OWN) == []
    assert violations(sent(history, tools, "a third one")) == [], "no data of another provider goes there"


@settings(max_examples=examples(150), deadline=None)
@given(windows, declared)
def test_a_prompt_keeps_its_beginning_while_the_conversation_grows(
    window: list[Sequence[ChatMessage]], tools: Sequence[str]
) -> None:
    history = [message for group in window for message in group]
    whole = canonical(history, tools, "here")
    for end in range(1, len(window)):
        shorter = canonical([message for group in window[:end] for message in group], tools, "here")
        if shorter[-1] == ChatMessage("user", GO_ON):
            shorter = shorter[:-1]  # only written so that it is the model's turn
        assert whole[: len(shorter)] == shorter
    assert canonical(history, tools, "here") == whole


@settings(max_examples=examples(150), deadline=None)
@given(windows)
def test_every_word_and_call_is_kept_with_its_own_result(window: list[Sequence[ChatMessage]]) -> None:
    history = [message for group in window for message in group]
    prompt = canonical(history, TOOLS, "here")
    asked = [call for message in history for call in message.tool_calls]
    written = [call for message in prompt for call in message.tool_calls]
    assert [call.arguments for call in written] == [call.arguments for call in asked]
    assert [call.extra for call in written] == [call.extra for call in asked]
    expected = [f"result {n}" for message in history for n, _ in enumerate(message.tool_calls)]
    assert [message.content for message in prompt if message.role == "tool"] == expected
    for before, after in zip(asked, written, strict=True):
        if before.name in TOOLS or NAME.fullmatch(before.name):
            assert after.name == before.name
    pairs = {(before.name, after.name) for before, after in zip(asked, written, strict=True)}
    assert len({name for name, _ in pairs}) == len({name for _, name in pairs}) == len(pairs)
    said = [storable_text(m.content) for m in history if m.content and m.content.strip() and m.role != "tool"]
    shown = iter([message.content for message in prompt])
    assert all(text in shown for text in said), "in the same order"


@settings(max_examples=examples(100), deadline=None)
@given(histories, declared)
def test_a_canonical_prompt_is_its_own_canonical_form(history: list[ChatMessage], tools: Sequence[str]) -> None:
    once = canonical(history, tools, "here")
    again = canonical([_from_here(message) for message in once], tools, "here")
    assert again == once


def _from_here(message: ChatMessage) -> ChatMessage:
    own = bool(message.extra) or any(call.extra for call in message.tool_calls)
    return ChatMessage(
        message.role,
        message.content,
        message.tool_calls,
        message.tool_call_id,
        message.name,
        extra=message.extra,
        origin="here" if own else "",
    )


def test_ids_of_nine_letters_and_digits_stay_and_all_others_differ() -> None:
    asked = [ToolCall(given, "echo", {}) for given in ("abcdefgh1", "call_1", "call_1", "", "")]
    results = [ChatMessage("tool", "ok", tool_call_id=call.id) for call in asked]
    prompt = canonical([ChatMessage("user", "go"), ChatMessage("assistant", None, tuple(asked)), *results], TOOLS)
    named = [call.id for call in prompt[1].tool_calls]
    assert named[0] == "abcdefgh1"
    assert len(set(named)) == 5
    assert all(CALL_ID.fullmatch(name) for name in named)
    assert [message.tool_call_id for message in prompt[2:]] == named


def test_a_failed_turn_leaves_a_note_between_what_the_user_said() -> None:
    asked = ChatMessage("assistant", None, (ToolCall("a", "echo", {}),))
    prompt = canonical(
        [ChatMessage("user", "one"), ChatMessage("user", "two"), asked, ChatMessage("user", "three")], TOOLS
    )
    assert [message.role for message in prompt] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert prompt[1].content == prompt[5].content == NO_ANSWER
