"""Any JSON that an endpoint sends is read or refused: no other error is raised."""

import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from domain.models.chat import ModelError
from infrastructure.models.openai.answer import AnswerBuilder
from infrastructure.models.openai.completion import read_completion

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def within(names: list[str], inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make objects of fields that completions have, with anything in them; or anything at all."""
    return st.dictionaries(st.sampled_from(names), inner, max_size=4) | anything


function = within(["name", "arguments"], anything)
call = within(["id", "index", "type", "function", "extra_content"], function)
message = within(
    ["role", "content", "refusal", "reasoning_content", "tool_calls", "function_call", "extra"],
    call | st.lists(call, max_size=3),
)
choice = within(["index", "message", "delta", "finish_reason"], message)
completion = within(["choices", "usage", "model", "error", "object"], choice | st.lists(choice, max_size=3))


@given(st.lists(completion, min_size=1, max_size=4))
def test_any_json_is_read_or_refused(parts: list[Any]) -> None:
    answer = AnswerBuilder("m")
    with suppress(ModelError):
        for part in parts:
            answer.add(read_completion(json.dumps(part)))
        answer.end()
        answer.finish()
        answer.build()
    assert isinstance(answer.written, str)
