"""Converts payloads of older schemas to the current one when they are read. Stored bytes never change.

An upcaster is a pure function from a payload of schema n to one of schema n + 1.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from domain.json import JsonObject

Upcaster: TypeAlias = Callable[[JsonObject], JsonObject]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""By the event's type and the schema that the upcaster converts from. Empty while every event has its first schema."""


def upcast(
    kind: str, schema: int, current: int, payload: JsonObject, upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS
) -> JsonObject:
    """Convert a payload from `schema` to `current`. Raise `KeyError` if an upcaster is missing."""
    for step in range(schema, current):
        payload = upcasters[kind, step](payload)
    return payload
