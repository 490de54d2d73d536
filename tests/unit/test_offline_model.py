"""The built-in model: a few rules, the same answers every time, and no claim to be more."""

import asyncio
import subprocess
import sys
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from domain.agents.output import Output, output_of
from domain.application.turns.ask_model import CORRECTION
from domain.models.chat import ChatAnswer, ChatMessage, ChatRequest, ToolCall, ToolSpec, Usage
from infrastructure.models.offline.model import OfflineModel
from infrastructure.settings import CHECKOUT

TOOLS = tuple(ToolSpec(name, name, {"type": "object"}) for name in ("current_time", "calculate", "look_up"))


class Words:
    """Counts words, so that tests can count along."""

    def count(self, text: str) -> int:
        return len(text.split())


async def answer(*messages: ChatMessage | str, tools: tuple[ToolSpec, ...] = TOOLS) -> ChatAnswer:
    prompt = tuple(ChatMessage("user", m) if isinstance(m, str) else m for m in messages)
    return await OfflineModel(Words()).complete(ChatRequest(prompt, tools))


async def said(*messages: ChatMessage | str) -> str:
    return (await answer(*messages)).content or ""


def asks(*calls: ToolCall) -> ChatMessage:
    return ChatMessage("assistant", None, calls)


def result(text: str, call_id: str = "call_1", name: str | None = None) -> ChatMessage:
    return ChatMessage("tool", text, tool_call_id=call_id, name=name)


async def test_says_what_it_is_and_how_to_get_a_real_one() -> None:
    text = await said("Good morning")
    assert text.startswith("I am Threadfold's built-in offline model")
    assert "“Good morning”" in text
    assert "LLM_ENDPOINT" in text


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        ("What time is it?", [("current_time", {})]),
        ("what's the time in Europe/Berlin please", [("current_time", {"timezone": "Europe/Berlin"})]),
        ("What is 2+3?", [("calculate", {"expression": "2+3"})]),
        ("so (1 + 2) * 3, what is it", [("calculate", {"expression": "(1 + 2) * 3"})]),
        ("sqrt(16) is?", [("calculate", {"expression": "sqrt(16)"})]),
        ("look up group append", [("look_up", {"query": "group append"})]),
        ("What do the docs say about C++ 1+1?", [("look_up", {"query": "C++ 1+1"})]),
        (
            "What time is it and what is 2 + 3?",
            [("current_time", {}), ("calculate", {"expression": "2 + 3"})],
        ),
        ("I was born on 2001-02-03, the 3rd", []),
        ("Call me at 5, or 6.", []),
        ("Hello", []),
    ],
)
async def test_asks_for_the_tools_that_a_message_calls_for(message: str, calls: list[tuple[str, Any]]) -> None:
    given_ = await answer(message)
    assert [(call.name, call.arguments) for call in given_.tool_calls] == calls
    assert [call.id for call in given_.tool_calls] == [f"call_{n}" for n in range(1, len(calls) + 1)]
    assert given_.finish_reason == ("tool_calls" if calls else "stop")
    assert (given_.content is None) == bool(calls)


async def test_asks_for_no_tool_that_it_was_not_offered() -> None:
    assert (await answer("What is 2+3?", tools=TOOLS[:1])).tool_calls == ()


async def test_tells_what_the_tools_of_this_turn_answered() -> None:
    calls = asks(ToolCall("call_1", "current_time", {}), ToolCall("call_2", "calculate", {}))
    text = await said("What time is it and what is 2+3?", calls, result("noon"), result("5", "call_2"))
    assert text == "current_time says: noon\ncalculate says: 5"


async def test_tells_a_tools_error_plainly() -> None:
    text = await said("What is 1/0?", asks(ToolCall("call_1", "calculate", {})), result("Division by zero."))
    assert "calculate says: Division by zero." in text


async def test_does_not_mistake_an_earlier_turns_results_for_this_ones() -> None:
    old = ("What is 1+1?", asks(ToolCall("call_1", "calculate", {})), result("2"), ChatMessage("assistant", "2"))
    assert (await answer(*old, "What is 2+3?")).tool_calls == (ToolCall("call_1", "calculate", {"expression": "2+3"}),)


@pytest.mark.parametrize("question", ["What is my name?", "what's my name", "Who am I?", "Do you know my name?"])
async def test_remembers_a_name_that_it_can_see(question: str) -> None:
    assert await said("Hi, my name is Ada.", ChatMessage("assistant", "Hello"), question) == "Your name is Ada."
    summary = ChatMessage("system", "Earlier in this conversation:\nuser: My name is Grace")
    assert await said(summary, question) == "Your name is Grace."
    assert "not told me" in await said("Hi", question)


async def test_the_name_told_last_counts() -> None:
    assert await said("my name is Ada", "sorry, my name is Eve", "what is my name?") == "Your name is Eve."


async def test_quotes_the_first_message_in_view_and_counts_them() -> None:
    text = await said("Tell me of ships", ChatMessage("assistant", "No"), "Why?", "What did I say first?")
    assert text == "I can see 2 earlier messages of yours. The first one in view is: “Tell me of ships”"
    assert await said("What did I ask first?") == "I can see no earlier message of yours."


async def test_streams_word_by_word_and_lets_others_run() -> None:
    shown: list[str] = []
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    request = ChatRequest((ChatMessage("user", "Good morning"),))
    whole = await OfflineModel(Words()).complete(request, shown.append)
    task.cancel()
    assert "".join(shown) == whole.content
    assert len(shown) == len((whole.content or "").split())
    assert others >= len(shown) - 1


async def test_counts_what_it_was_told_and_what_it_says() -> None:
    given_ = await answer("one two", asks(ToolCall("c", "calculate", {"a": 1})), result("five six", "c"))
    assert given_.usage == Usage(prompt_tokens=2 + 2 + 2, completion_tokens=4)


async def test_goes_by_the_name_it_is_called() -> None:
    request = ChatRequest((ChatMessage("user", "hi"),), model="small")
    assert (await OfflineModel(Words()).complete(request)).model == "small"
    assert (await answer("hi")).model == "threadfold-offline"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.none() | st.text())))
async def test_answers_any_prompt_and_the_same_one_alike(prompt: list[tuple[Any, str | None]]) -> None:
    request = ChatRequest(tuple(ChatMessage(role, content) for role, content in prompt), TOOLS)
    model = OfflineModel(Words())
    first = await model.complete(request)
    assert first == await model.complete(request, lambda _: None)
    assert first.content or first.tool_calls


LONG = 200_000
ODD = (
    ("1", "-", ""),
    ("1", "-", "x"),
    ("1", " ", "x"),
    ("1+", " ", "?"),
    ("1+", "(", "?"),
    ("", "1", ""),
    ("", "(", ""),
    ("", "1 - (", ""),
    ("", "1+1 a ", ""),
    ("", "sqrt (", ""),
    ("sqrt", " ", ""),
    ("", "2001-02-", ""),
    ("", "my name is ", ""),
    ("my name is ", "a'", ""),
    ("", "look up ", ""),
    ("look up", " ", ""),
    ("look up ", "?", ""),
    ("what time in ", "Aa/", ""),
    ("what time in Aa", "/Aa", "é"),
)
"""Beginning, what is repeated, end."""


async def answer_all_that_is_odd() -> None:
    for begin, middle, end in ODD:
        text = begin + (middle * (LONG // len(middle) + 1))[:LONG] + end
        await answer(text)
        await answer(text, "what is my name?")
        await typed(Refund, text)
        print(begin, middle, end, sep="|", flush=True)  # noqa: T201  (read by the test below)


def test_takes_no_time_to_speak_of_over_odd_messages() -> None:
    """In a process of its own, as nothing else can end a pattern that searches for ever."""
    script = "import asyncio; from tests.unit import test_offline_model as t; asyncio.run(t.answer_all_that_is_odd())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, timeout=60, capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines(), done.stderr) == (["|".join(parts) for parts in ODD], "")


async def test_asks_for_few_sums_and_none_that_is_too_long() -> None:
    asked = (await answer("1+1 and " * 1_000 + "then " + "1+" * 300 + "1")).tool_calls
    assert [call.arguments["expression"] for call in asked] == ["1+1"] * 5
    assert (await answer("What is " + "1+" * 300 + "1")).tool_calls == ()


async def test_looks_up_the_beginning_of_what_is_long() -> None:
    (call,) = (await answer("look up " + "a_" * LONG)).tool_calls
    assert call.arguments == {"query": "a_" * 250}


class Refund(BaseModel):
    order: str
    amount: int = Field(ge=1)
    reason: Literal["too late", "broken", "wrong"]
    is_urgent: bool
    note: str | None
    bought: date


class Part(BaseModel):
    name: str
    parts: list["Part"]


async def typed(kind: Any, *messages: ChatMessage | str, tools: tuple[ToolSpec, ...] = ()) -> Any:
    prompt = tuple(ChatMessage("user", m) if isinstance(m, str) else m for m in messages)
    output: Output[Any] = output_of(kind)
    answer = await OfflineModel(Words()).complete(ChatRequest(prompt, tools, output=output.format, question="q"))
    assert answer.tool_calls == ()
    return output.parse(answer.content or "")


async def test_fills_a_model_with_what_the_prompt_says() -> None:
    text = "Order A-17 of 2026-03-04 came broken: I want 30 back, 12 % of it at once. This is not urgent."
    assert await typed(Refund, text) == Refund(
        order="A-17", amount=30, reason="broken", is_urgent=False, note=None, bought=date(2026, 3, 4)
    )
    noted = "order: A-17, amount is 7, it came too late, urgent; note: call me first\nplease"
    assert (await typed(Refund, noted)).model_dump() == {
        "order": "A-17",
        "amount": 7,
        "reason": "too late",
        "is_urgent": True,
        "note": "call me first",
        "bought": date(2000, 1, 1),
    }


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Literal["refund", "question"], "What does this ask for?\nI have questions", "question"),
        (Literal["refund", "question"], "Refund or question?\nI want a refund", "refund"),
        (Literal["order_status", "refund"], "What is the status?", "order_status"),
        (Literal["refund", "question"], "Hello", "refund"),
        (Literal["no", "yes"], "now, yes", "yes"),
        (bool, "Is this a complaint?\nNo, it is not", False),
        (bool, "Yes please", True),
        (int, "It takes 3 days", 3),
        (int, "On 2026-03-04 at A-17", 0),
        (Annotated[int, Field(ge=5, le=9)], "1 2 10 7", 7),
        (Annotated[int, Field(ge=5, multiple_of=4)], "1 2 10 7", 8),
        (Annotated[float, Field(gt=0, lt=1)], "5", 0.5),
        (float, "It costs 1,250.75", 1250.75),
        (Annotated[str, Field(max_length=5)], "Hello there", "Hello"),
        (Annotated[str, Field(min_length=5)], "Hi", "Hi..."),
        (Annotated[str, Field(pattern=r"^[A-Z]-\d+$")], "Is it order A-17?", "A-17"),
        (list[int], "1, 2 and 3", [1, 2, 3]),
        (list[Literal["red", "blue", "green"]], "green and red", ["red", "green"]),
        (Annotated[set[int], Field(min_length=3)], "5", {5, 0, 1}),
        (tuple[int, bool], "5, no", (5, False)),
        (int | None, "none", None),
        (dict[str, int], "1", {}),
        (list[str], "", [""]),
    ],
)
async def test_finds_a_value_of_the_type_that_is_asked_for(kind: Any, text: str, value: object) -> None:
    assert await typed(kind, text) == value


async def test_recursive_types_end() -> None:
    assert await typed(Part, "name: wheel") == Part(name="wheel", parts=[])


async def test_a_typed_answer_tells_what_tools_answered() -> None:
    offered = tuple(spec for spec in TOOLS if spec.name == "calculate")
    request = ChatRequest((ChatMessage("user", "What is 2+3?"),), offered, output=output_of(int).format)
    first = await OfflineModel(Words()).complete(request)
    assert [call.name for call in first.tool_calls] == ["calculate"]
    messages = ("What is it?", asks(*first.tool_calls), result("It is 5"))
    assert await typed(int, *messages, tools=offered) == 5


async def test_a_corrected_question_is_the_same_question() -> None:
    correction = CORRECTION.format(error="3 - 2 is too small")
    first = ChatMessage("assistant", '{"answer": 5}')
    assert await typed(int, "It takes 5 days", first, correction, tools=TOOLS) == 5


async def test_a_question_without_a_type_is_quoted() -> None:
    request = ChatRequest((ChatMessage("user", "What is 2+3?"),), question="0123456789abcdef")
    answer = await OfflineModel(Words()).complete(request)
    assert answer.tool_calls == ()
    assert "The question was: “What is 2+3?” Set LLM_ENDPOINT" in (answer.content or "")
