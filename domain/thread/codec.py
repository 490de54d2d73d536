"""Encodes events, metadata and states as JSON, and decodes them. Stored names can only refer to the classes here."""

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
    """Where an event comes from: the client's `command`, or the command that started the turn (`causation`)."""

    command: CommandId | None = None
    causation: CommandId | None = None
    correlation: str | None = None
    """The request's `X-Correlation-ID`, by which callers find the event."""
    actor: str | None = None
    client: str | None = None
    """The name that the caller's program gives itself."""
    principal: str | None = None
    """The verified caller, which acts for the `actor`; None without authentication."""


class Recorded(Struct, frozen=True, gc=False):
    """A stored event with its place in the log, its time and its metadata."""

    thread_id: ThreadId
    version: Version
    position: Position
    recorded_at: datetime
    event: Event
    metadata: Metadata
    size: int = 0
    """Characters of the payload: roughly its size in memory."""


_encoder = msgspec.json.Encoder()
_types = {event.__name__: event for event in EVENTS}
_decoders = {event.__name__: msgspec.json.Decoder(event) for event in EVENTS}
_decode_metadata = lru_cache(maxsize=256)(msgspec.json.Decoder(Metadata).decode)
"""Cached, because consecutive events of one command have the same metadata."""
_decode_object = msgspec.json.Decoder(JsonObject).decode


def to_json(value: object) -> str:
    """Encode a value of the domain as JSON on one line."""
    return _encoder.encode(value).decode()


def encode(event: Event, metadata: Metadata) -> Draft:
    """Encode an event for storage."""
    return Draft(type(event).__name__, event.SCHEMA, to_json(event), to_json(metadata))


def read_back(draft: Draft) -> Event:
    """Decode an event that was just encoded."""
    return _decoders[draft.type].decode(draft.payload)


def decode(record: Record) -> Recorded:
    """Decode a stored event, and upcast it if its schema is old.

    Raises:
        CorruptLog: the type or its schema is unknown, or the payload does not match the type.
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
        raise _unreadable(record, f"a newer Threadfold wrote it; this one reads schemas up to {kind.SCHEMA}")
    if record.schema == kind.SCHEMA:
        return _decoders[record.type].decode(record.payload)
    payload = upcast(record.type, record.schema, kind.SCHEMA, _decode_object(record.payload))
    return msgspec.convert(payload, kind)


def _unreadable(record: Record, why: str) -> CorruptLog:
    place = f"{record.thread_id}: version {record.version}"
    return CorruptLog(f"{place} cannot be read as a {record.type} of schema {record.schema}: {why}")
