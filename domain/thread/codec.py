"""Events, metadata and states as JSON texts, and back. No class is ever looked up by a stored name but these."""

from datetime import datetime
from functools import lru_cache

import msgspec
from msgspec import Struct

from domain.errors import CorruptLog
from domain.ids import CommandId, Position, ThreadId, Version
from domain.json import JsonObject
from domain.log.hash_chain import Draft, Record
from domain.thread.events import EVENTS, Event
from domain.thread.upcasters import upcast


class Metadata(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why an event is there: the command that it answers, or the command that set the agent to work (causation)."""

    command: CommandId | None = None
    causation: CommandId | None = None
    correlation: str | None = None
    """What the caller wants to find it by: the `X-Correlation-ID` of the request."""
    actor: str | None = None
    client: str | None = None
    """The program that the caller used, as it names itself."""


class Recorded(Struct, frozen=True, gc=False):
    """An event with its place and its story."""

    thread_id: ThreadId
    version: Version
    position: Position
    recorded_at: datetime
    event: Event
    metadata: Metadata
    size: int = 0
    """Characters of its payload: about what it takes in memory."""


_encoder = msgspec.json.Encoder()
_types = {event.__name__: event for event in EVENTS}
_decoders = {event.__name__: msgspec.json.Decoder(event) for event in EVENTS}
_decode_metadata = lru_cache(maxsize=256)(msgspec.json.Decoder(Metadata).decode)
"""The events that a command brought have the same text one after another."""
_decode_object = msgspec.json.Decoder(JsonObject).decode


def to_json(value: object) -> str:
    """Write any of the domain's values as JSON on one line."""
    return _encoder.encode(value).decode()


def encode(event: Event, metadata: Metadata) -> Draft:
    """Prepare an event for storage."""
    return Draft(type(event).__name__, event.SCHEMA, to_json(event), to_json(metadata))


def read_back(draft: Draft) -> Event:
    """Read an event that was just encoded."""
    return _decoders[draft.type].decode(draft.payload)


def decode(record: Record) -> Recorded:
    """Read a stored event, upcasting it if its schema is old.

    Raises:
        CorruptLog: the type is unknown, or the payload does not fit it.
    """
    try:
        event = _decode_event(record)
        metadata = _decode_metadata(record.metadata)
    except (msgspec.MsgspecError, KeyError, RecursionError) as error:
        raise _unreadable(record, repr(error)) from error
    return Recorded(
        record.thread_id, record.version, record.position, record.recorded_at, event, metadata, len(record.payload)
    )


def _decode_event(record: Record) -> Event:
    kind = _types[record.type]
    if record.schema > kind.SCHEMA:
        raise _unreadable(record, f"this version of Threadfold reads schemas up to {kind.SCHEMA}; a newer one wrote it")
    if record.schema == kind.SCHEMA:
        return _decoders[record.type].decode(record.payload)
    payload = upcast(record.type, record.schema, kind.SCHEMA, _decode_object(record.payload))
    return msgspec.convert(payload, kind)


def _unreadable(record: Record, why: str) -> CorruptLog:
    place = f"{record.thread_id}: version {record.version}"
    return CorruptLog(f"{place} is no {record.type} of schema {record.schema} that we know: {why}")
