"""Reading a request's JSON, with errors that name the place."""

import json
from collections import Counter
from http import HTTPStatus
from typing import Any

import msgspec
from litestar.connection import Request
from litestar.exceptions import HTTPException

from api.http.problems import FieldProblem, problem
from domain.errors import InvalidInput
from domain.json import MAX_ITEMS, check_json
from domain.json_scan import count_items, read_integer, too_many_items


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body is JSON and declared as JSON.

    The declaration is required against pages of other sites: a browser sends text for them without a preflight request,
    but not `application/json`.
    """

    async def json(self) -> Any:
        """Decode the body. Raises `InvalidInput`, or 415 for another content type or an encoded body."""
        if self.content_type[0] != "application/json":
            detail = "This path expects JSON; send it with the header Content-Type: application/json."
            raise HTTPException(detail=detail, status_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        encoding = self.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":  # a compressed body would otherwise be reported as broken JSON
            why, status = f"{encoding} is not supported; send the body uncompressed", HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            raise problem(status, status.phrase, why, FieldProblem("Content-Encoding", why))
        return read_json(await self.body())


def read_json(body: bytes) -> Any:
    """Parse a body. Raises `InvalidInput`: it has too many items, is no JSON, or has two fields of one name."""
    counted = count_items(body, MAX_ITEMS)
    if counted.items > MAX_ITEMS:
        raise too_many_items("body")
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _complaint(body, error) from error
    # The decoder takes the last of two fields of one name. The caller may have meant the first.
    if counted.fields and _count_fields(decoded) < counted.fields:
        _doubled.decode(body.decode())
    return decoded


def _count_fields(value: Any) -> int:
    """Count the fields of all objects in a value."""
    found, todo = 0, [value]
    while todo:
        inner = todo.pop()
        if isinstance(inner, dict):
            found += len(inner)
            todo.extend(inner.values())
        elif isinstance(inner, list):
            todo.extend(inner)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object. Raises `InvalidInput` if two of its fields have one name."""
    made = dict(pairs)
    if len(made) < len(pairs):
        again = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InvalidInput(again, "is given more than once in one object")
    return made


_doubled = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)
"""Finds fields that are given twice; makes nothing of numbers."""


def _complaint(body: bytes, error: Exception) -> InvalidInput:
    """Look again, slowly, for what is wrong: the fast decoder does not say where."""
    try:
        check_json(json.loads(body, parse_int=read_integer), "body")
    except UnicodeDecodeError as wrong:
        return InvalidInput("body", f"must be UTF-8; byte {wrong.start} is not")
    except json.JSONDecodeError as wrong:
        return InvalidInput("body", f"must be JSON: {wrong.msg} at line {wrong.lineno}, column {wrong.colno}")
    except RecursionError:
        return InvalidInput("body", "is nested too deeply")
    except InvalidInput as wrong:
        return InvalidInput(wrong.field.removeprefix("body.") or "body", wrong.why)
    except ValueError as wrong:
        return InvalidInput("body", f"must be JSON: {wrong}")
    return InvalidInput("body", f"must be JSON: {error}")
