"""Recordings behind one another: nothing is left out, calls stay apart, and their tools answer in a thread."""

import json
from collections import Counter
from uuid import uuid4

import pytest

from domain.agents.tools import ToolContext
from domain.errors import ToolError
from domain.ids import ThreadId
from examples.airline.agent import airline
from examples.airline.recordings import concatenated, conversations, recorded_calls_in, replayed_in, turns_of


def test_a_concatenation_holds_whole_recordings_until_there_are_enough_turns() -> None:
    for first in (0, 17, 39):
        long = concatenated(first, 200)
        ring = [*conversations().values()] * 2
        texts = [m["content"] for c in ring[first : first + 40] for m in c.messages]
        said = [m["content"] for m in long.messages]
        assert said == texts[: len(said)]
        assert 200 <= turns_of(long) < 200 + 15
    assert turns_of(concatenated(0, 301)) == sum(map(turns_of, conversations().values())) == 301


def test_it_is_found_by_its_thread() -> None:
    long = concatenated(3, 120)
    assert long.id == "airline-15-0+120"
    assert replayed_in(long.thread_id) == long
    assert len({concatenated(first, turns).thread_id for first in range(40) for turns in (1, 2, 200)}) == 120
    with pytest.raises(KeyError):
        replayed_in(uuid4())


def test_the_ids_of_calls_are_those_of_one_part_only() -> None:
    long = concatenated(0, 301)
    parts = Counter(call.call_id.rpartition("_")[2] for call in recorded_calls_in(long))
    assert sum(parts.values()) == 236
    assert len(parts) == sum(any(m["role"] == "tool" for m in c.messages) for c in conversations().values())
    assert {m["tool_call_id"] for m in long.messages if m["role"] == "tool"} == {
        c.call_id for c in recorded_calls_in(long)
    }


async def test_tools_answer_in_it_as_they_did_in_each_part() -> None:
    long = concatenated(0, 301)
    for call in recorded_calls_in(long):
        if call.name not in {"think", "calculate"}:
            try:
                context = ToolContext(ThreadId(long.thread_id), call.call_id, "key")
                told = await airline.by_name[call.name].run(json.loads(call.arguments), context)
            except ToolError as error:
                told = str(error)
            assert told == call.content
