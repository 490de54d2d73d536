"""All JSON that is stored verifies; JSON that cannot be stored is refused before anything is written."""

from datetime import UTC, datetime
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from domain.errors import CorruptLog, InvalidInput
from domain.ids import DEFAULT_TENANT, ThreadId
from domain.json import MAX_DEPTH, Json, JsonObject, check_json
from domain.log.hash_chain import EMPTY_HEAD, chain_records, check_chain
from domain.thread.codec import Metadata, decode, encode
from domain.thread.commands import OpenThread, UpdateValues
from domain.thread.decide import decide_all
from domain.thread.state import INITIAL
from tests.support.examples import examples
from tests.support.json_values import any_json_object

THREAD = ThreadId(UUID(int=7))
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@settings(max_examples=examples(300), deadline=None)
@given(any_json_object, any_json_object)
def test_any_json_is_stored_and_verified_or_refused_by_the_name_of_its_field(
    values: JsonObject, changes: JsonObject
) -> None:
    try:
        events = decide_all((OpenThread("assistant", values), UpdateValues(changes)), INITIAL)
    except InvalidInput as refused:
        assert_names_its_field(refused)
        return
    records, head = chain_records(DEFAULT_TENANT, THREAD, EMPTY_HEAD, [encode(e, Metadata()) for e in events], NOW)
    assert check_chain(records, EMPTY_HEAD) == head
    assert [decode(record).event for record in records] == list(events)
    assert not any("\n" in record.payload + record.metadata for record in records)


def assert_names_its_field(refused: InvalidInput) -> None:
    assert refused.field.startswith("values")


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_a_change_of_any_stored_field_is_found(data: st.DataObject) -> None:
    drafts = [encode(e, Metadata()) for e in decide_all((OpenThread("a", {"n": 1}), UpdateValues({"n": 2})), INITIAL)]
    records, _ = chain_records(DEFAULT_TENANT, THREAD, EMPTY_HEAD, drafts, NOW)
    index = data.draw(st.integers(0, len(records) - 1))
    record = records[index]
    changed = data.draw(
        st.sampled_from(
            [
                replace(record, payload=record.payload.replace(":", ": ", 1)),
                replace(record, metadata='{"actor":"eve"}'),
                replace(record, type="TurnStarted"),
                replace(record, schema=record.schema + 1),
                replace(record, recorded_at=NOW.replace(microsecond=1)),
                replace(record, hash=bytes([record.hash[0] ^ 1]) + record.hash[1:]),
                replace(record, thread_id=ThreadId(UUID(int=8))),
            ]
        )
    )
    tampered = (*records[:index], changed, *records[index + 1 :])
    with pytest.raises(CorruptLog):
        check_chain(tampered, EMPTY_HEAD)


def test_a_missing_or_reordered_event_is_found() -> None:
    commands = (OpenThread("a"), UpdateValues({"n": 1}), UpdateValues({"n": 2}))
    drafts = [encode(event, Metadata()) for event in decide_all(commands, INITIAL)]
    records, _ = chain_records(DEFAULT_TENANT, THREAD, EMPTY_HEAD, drafts, NOW)
    for tampered in (records[1:], (records[0], records[2]), (records[0], records[2], records[1])):
        with pytest.raises(CorruptLog):
            check_chain(tampered, EMPTY_HEAD)


def test_time_never_runs_backwards_in_a_thread() -> None:
    drafts = [encode(event, Metadata()) for event in decide_all((OpenThread("a"),), INITIAL)]
    _, head = chain_records(DEFAULT_TENANT, THREAD, EMPTY_HEAD, drafts, NOW)
    records, _ = chain_records(DEFAULT_TENANT, THREAD, head, drafts, NOW.replace(year=2020))
    assert records[0].recorded_at == NOW


def test_nesting_is_bounded() -> None:
    def nested(levels: int) -> Json:
        value: Json = 1
        for _ in range(levels):
            value = [value]
        return value

    check_json(nested(MAX_DEPTH), "values")
    with pytest.raises(InvalidInput, match=r"values(\.0)+: must not be nested deeper than 64 levels"):
        check_json(nested(MAX_DEPTH + 1), "values")
