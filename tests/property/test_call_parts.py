"""Tool calls are put together correctly, however an endpoint cuts them into fragments."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given as for_all
from hypothesis import strategies as st

from infrastructure.models.openai.completion import read_tool_calls
from infrastructure.models.openai.tool_calls import ToolCalls

Asked = tuple[str, dict[str, Any]]

NAMES = st.sampled_from(["echo", "store", "look_up", "now"])
ARGUMENTS = st.dictionaries(
    st.sampled_from("abc"), st.text(alphabet='x"{}\\😀é\n', max_size=6) | st.integers(0, 9), max_size=3
)
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=4)


def put_together(parts: Sequence[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    calls = ToolCalls()
    for part in read_tool_calls(list(parts)):
        calls.add(part, whole=False)
    whole = calls.build("tool_calls")
    assert [call.fault for call in whole] == [""] * len(whole)
    return [(call.id, call.name, call.arguments) for call in whole]


def expected(asked: Sequence[Asked]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(f"id{n}", name, arguments) for n, (name, arguments) in enumerate(asked)]


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def fragmented(draw: st.DrawFn) -> tuple[list[Asked], list[dict[str, Any]]]:
    """Draw calls, and the fragments that an endpoint sends of them, with its habits."""
    asked = draw(CALLS)
    numbered = draw(st.sampled_from(["each its own", "all 0", "none", "as text"]))
    labels = draw(st.sampled_from(["first", "every"]))
    named_again = draw(st.booleans()) and labels == "every"
    by_call: list[list[dict[str, Any]]] = []
    for n, (name, arguments) in enumerate(asked):
        index = {"each its own": n, "all 0": 0, "none": None, "as text": str(n)}[numbered]
        fragments = []
        for position, piece in enumerate(pieces(draw, json.dumps(arguments))):
            first = position == 0
            function = {"arguments": piece, **({"name": name} if first or named_again else {})}
            label = {"id": f"id{n}"} if first or labels == "every" else {}
            fragments.append({"function": function, **label, **({} if index is None else {"index": index})})
        by_call.append(fragments)
    if numbered in {"each its own", "as text"} and draw(st.booleans()):  # then they may come interleaved
        parts, waiting = [fragments[0] for fragments in by_call], [fragments[1:] for fragments in by_call]
        while any(waiting):
            parts.append(draw(st.sampled_from([fragments for fragments in waiting if fragments])).pop(0))
        return asked, parts
    return asked, [part for fragments in by_call for part in fragments]


@for_all(fragmented())
def test_fragments_become_the_calls_that_they_were(drawn: tuple[list[Asked], list[dict[str, Any]]]) -> None:
    asked, parts = drawn
    assert put_together(parts) == expected(asked)


@for_all(CALLS)
def test_whole_calls_need_neither_index_nor_order_nor_ids_of_their_own(asked: list[Asked]) -> None:
    calls = ToolCalls()
    for name, arguments in asked:
        for part in read_tool_calls({"id": "same", "index": 0, "function": {"name": name, "arguments": arguments}}):
            calls.add(part, whole=True)
    assert [(call.name, call.arguments) for call in calls.build("stop")] == asked
