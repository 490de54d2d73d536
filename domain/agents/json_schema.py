"""Checks JSON from people and clients against a JSON schema."""

from functools import lru_cache

import jsonschema_rs

from domain.errors import InvalidInput
from domain.json import Json, JsonObject
from domain.thread.codec import to_json

MAX_WHY_CHARACTERS = 300
"""Characters of what an error says: it quotes the value."""


def check_schema(value: Json, schema: JsonObject, field: str) -> None:
    """Raise `InvalidInput` if a value does not fit a schema, with the path of its first error below `field`."""
    error = next(_validator(to_json(schema)).iter_errors(value), None)
    if error is not None:
        path = ".".join([field, *map(str, error.instance_path)])
        raise InvalidInput(path, error.message[:MAX_WHY_CHARACTERS])


def check_text_answer(value: Json, field: str) -> None:
    """Raise `InvalidInput` if a value is not text."""
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be text, not {type(value).__name__}")


@lru_cache(maxsize=256)
def _validator(schema: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema, offline=True)
