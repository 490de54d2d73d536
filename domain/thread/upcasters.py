"""How payloads of older schemas become today's, one step at a time, on the way out of the log.

An upcaster is a pure function from a payload of schema n to one of schema n + 1. The stored bytes stay as they are.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from domain.json import JsonObject

Upcaster: TypeAlias = Callable[[JsonObject], JsonObject]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""By the event's type and the schema that the upcaster starts from. Empty while every event has its first schema."""


def upcast(
    kind: str, schema: int, current: int, payload: JsonObject, upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS
) -> JsonObject:
    """Bring a payload from `schema` to `current`. Raise `KeyError` where the chain has a gap."""
    for step in range(schema, current):
        payload = upcasters[kind, step](payload)
    return payload
