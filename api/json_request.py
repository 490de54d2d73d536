"""Reading a request's JSON, with errors that say where it went wrong."""

import json
from typing import Any

import msgspec
from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_415_UNSUPPORTED_MEDIA_TYPE

from domain.errors import InvalidInput
from domain.json import check_json


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body is JSON, declared as such.

    The declaration matters: a page of another site can make a browser send text to a loopback address, but not
    `application/json` without being asked first.
    """

    async def json(self) -> Any:
        """Decode the body. Raises `InvalidInput`, or 415 for another content type."""
        if self.content_type[0] != "application/json":
            detail = "This path takes JSON; send it with the header Content-Type: application/json."
            raise HTTPException(detail=detail, status_code=HTTP_415_UNSUPPORTED_MEDIA_TYPE)
        body = await self.body()
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _complaint(body, error) from error


def _complaint(body: bytes, error: Exception) -> InvalidInput:
    """Look again, slowly, for what is wrong: the fast decoder does not say where."""
    try:
        check_json(json.loads(body), "body")
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
