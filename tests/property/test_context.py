"""What the model is shown fits, keeps calls and outcomes together, and always holds what the user said last."""

import hypothesis.strategies as st
from hypothesis import given, settings
from msgspec.structs import replace

from domain.chat import ToolCall
from domain.compaction import leaving, summarise
from domain.context import MESSAGE_OVERHEAD, SHORTENED_TOKENS, assemble, cost, groups
from domain.ids import Version
from domain.state import Message, Running, Summary
from tests.support.given import A_RUNNING_TURN, running

ROOM = 60


@st.composite
def exchanges(draw: st.DrawFn) -> list[Message]:
    """A user's message, then answers and calls with their outcomes."""
    said = [message("user", draw)]
    for number in range(draw(st.integers(0, 3))):
        calls = draw(st.integers(0, 3))
        asked = tuple(ToolCall(f"{number}-{n}", "clock", {}) for n in range(calls))
        said.append(replace(message("assistant", draw), tool_calls=asked))
        said += [replace(message("tool", draw), call_id=call.id, name="clock") for call in asked]
    return said


def message(role: str, draw: st.DrawFn) -> Message:
    tokens = draw(st.integers(1, 80))
    return Message(Version(1), role, "word " * tokens, tokens)  # type: ignore[arg-type]


windows = st.lists(exchanges(), min_size=1, max_size=6).map(
    lambda parts: tuple(
        replace(said, version=Version(number + 1)) for number, said in enumerate(m for part in parts for m in part)
    )
)


def with_window(window: tuple[Message, ...], summary: Summary | None = None) -> Running:
    state = running(*A_RUNNING_TURN)
    return replace(state, thread=replace(state.thread, window=window, summary=summary))


@settings(max_examples=200, deadline=None)
@given(windows, st.integers(ROOM, 600), st.sampled_from([None, Summary(Version(1), "they met", 5)]))
def test_a_prompt_is_never_over_its_limit_never_splits_and_holds_the_last_question(
    window: tuple[Message, ...], limit: int, summary: Summary | None
) -> None:
    context = assemble(with_window(window, summary), "be brief", overhead=10, limit=limit)
    smallest = max(len(group) for group in groups(window)) + 1
    fits = limit >= 10 + 5 + smallest * (SHORTENED_TOKENS + MESSAGE_OVERHEAD)
    if fits:
        assert context.assembled.tokens <= limit
    assert context.messages[0].role == "system"
    assert any(m.role == "user" for m in context.messages)
    requested = [call.id for m in context.messages for call in m.tool_calls]
    answered = [m.tool_call_id for m in context.messages if m.role == "tool"]
    assert requested == answered
    assert context == assemble(with_window(window, summary), "be brief", overhead=10, limit=limit)


@settings(max_examples=200, deadline=None)
@given(windows, st.integers(ROOM, 2_000))
def test_compaction_takes_whole_groups_and_leaves_the_last_exchange(window: tuple[Message, ...], limit: int) -> None:
    left = leaving(window, limit)
    kept = window[len(left) :]
    assert tuple(left) + kept == window
    assert not kept or kept[0].role != "tool"
    newest = next(m for m in reversed(window) if m.role == "user")
    assert newest in kept
    beyond = [m for m in kept if m.version < newest.version]
    assert sum(map(cost, kept)) <= limit / 4 or not beyond


def test_a_summary_grows_by_what_leaves_and_stays_bounded() -> None:
    thread = running(*A_RUNNING_TURN).thread
    many = [Message(Version(n), "user", f"line {n} " + "x" * 500, 100) for n in range(1, 100)]
    through, text = summarise(replace(thread, summary=Summary(Version(1), "user: first", 3)), many, 4_000)
    assert through == many[-1].version
    assert 1_000 < len(text) <= 1_600
    assert text.startswith("user: line")
    assert "line 99" in text
