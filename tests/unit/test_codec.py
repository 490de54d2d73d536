"""Stored events are decoded by type and schema, old ones through upcasters; unknown ones are refused."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.errors import CorruptLog
from domain.ids import DEFAULT_TENANT, CommandId, ThreadId, Version
from domain.log.hash_chain import Record
from domain.thread.codec import Metadata, decode, encode
from domain.thread.events import EVENTS, MessageAppended
from domain.thread.upcasters import upcast

SAID = MessageAppended("user", "hello", 1)


def record(kind: str = "MessageAppended", schema: int = 1, payload: str | None = None) -> Record:
    draft = encode(SAID, Metadata())
    now = datetime(2026, 11, 23, tzinfo=UTC)
    thread_id = ThreadId(UUID(int=7))
    text = draft.payload if payload is None else payload
    return Record(DEFAULT_TENANT, thread_id, Version(3), kind, schema, text, "{}", now, bytes(32))


def test_names_of_events_are_storage_format_and_stay() -> None:
    assert {event.__name__: event.SCHEMA for event in EVENTS} == {
        "ThreadOpened": 1,
        "ThreadForked": 1,
        "MessageEdited": 1,
        "BudgetSet": 1,
        "TurnEnqueued": 1,
        "TurnResumed": 1,
        "ApprovalRequested": 1,
        "ApprovalGranted": 1,
        "ApprovalDenied": 1,
        "QuestionAsked": 1,
        "QuestionAnswered": 1,
        "FanOutStarted": 1,
        "ItemAdvanced": 1,
        "ItemCompleted": 1,
        "ItemFailed": 1,
        "CancellationRequested": 1,
        "TurnCancelled": 1,
        "TurnRolledBack": 1,
        "TurnStarted": 1,
        "MessageAppended": 1,
        "ContextAssembled": 1,
        "ModelCalled": 1,
        "ModelAnswered": 1,
        "ModelFailed": 1,
        "BudgetThresholdReached": 1,
        "ToolRequested": 1,
        "ToolStarted": 1,
        "ToolSucceeded": 1,
        "ToolFailed": 1,
        "ToolOutcomeUnknown": 1,
        "StateUpdated": 1,
        "NodeCompleted": 1,
        "NodeFailed": 1,
        "HistoryCompacted": 1,
        "TurnCompleted": 1,
        "TurnFailed": 1,
    }


def test_what_is_not_there_is_not_written() -> None:
    draft = encode(SAID, Metadata(command=CommandId(UUID(int=1))))
    assert draft.payload == '{"role":"user","content":"hello","tokens":1}'
    assert draft.metadata == '{"command":"00000000-0000-0000-0000-000000000001"}'
    assert encode(SAID, Metadata()).metadata == "{}"


def test_an_event_is_read_as_it_was_written_even_with_fields_that_came_later() -> None:
    assert decode(record()).event == SAID
    assert decode(record(payload='{"role":"user","content":"hello","tokens":1,"mood":"good"}')).event == SAID


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (record(kind="os.system"), "cannot be read as a os.system of schema 1"),
        (record(schema=2), "a newer Threadfold wrote it"),
        (record(schema=0), "schema 0"),
        (record(payload="{}"), "required field"),
        (record(payload='{"role":"root","content":"hello","tokens":1}'), "Invalid enum value"),
        (record(payload="hello"), "malformed"),
        (record(payload='{"deep":' + "[" * 5_000), "recursion"),
        (replace(record(), metadata='{"command":"me"}'), "Invalid UUID"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_place(stored: Record, why: str) -> None:
    with pytest.raises(CorruptLog, match=f"00000000-0000-0000-0000-000000000007: version 3 .*{why}"):
        decode(stored)


def test_old_payloads_become_todays_step_by_step() -> None:
    steps = {
        ("Said", 1): lambda old: {"text": old["words"]},
        ("Said", 2): lambda old: {**old, "loud": old["text"].isupper()},
    }
    assert upcast("Said", 1, 3, {"words": "HEY"}, steps) == {"text": "HEY", "loud": True}
    assert upcast("Said", 3, 3, {"text": "hey", "loud": False}, steps) == {"text": "hey", "loud": False}
    with pytest.raises(KeyError):
        upcast("Said", 0, 3, {}, steps)
