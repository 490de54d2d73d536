"""What a client of an endpoint needs: its URL, its time limits, and the names of their settings."""

from collections.abc import Mapping
from typing import Annotated

import httpx
from msgspec import Meta, Struct

from domain.errors import InvalidInput

PATH = "/chat/completions"

PLACES: Mapping[str, str] = {
    "endpoint": "LLM_ENDPOINT",
    "api_key": "LLM_API_KEY",
    "connect": "LLM_CONNECT_SECONDS",
    "first_byte": "LLM_FIRST_BYTE_SECONDS",
    "silence": "LLM_SILENCE_SECONDS",
    "total": "LLM_TOTAL_SECONDS",
    "omit": "LLM_OMIT",
}
"""The setting of each argument of a client, for errors."""


Seconds = Annotated[float, Meta(gt=0, le=3600)]


class TimeLimits(Struct, frozen=True):
    """How long to wait, in seconds.

    `first_byte` runs from the request to the first token of a streamed answer: meanwhile a cold server loads its model,
    or a model reasons without output. It starts again whenever the server sends other bytes. `silence` runs between the
    chunks after that. An answer that is not streamed sends nothing while the model works, so only `total` limits its
    beginning. `total` covers everything, including retries and the waits between them.
    """

    connect: Seconds = 5.0
    first_byte: Seconds = 300.0
    silence: Seconds = 60.0
    total: Seconds = 600.0


def completions_url(endpoint: str) -> httpx.URL:
    """Return where requests go. Raises `InvalidInput` for an endpoint that is no URL."""
    try:
        url = httpx.URL(endpoint.strip())
    except httpx.InvalidURL as error:
        raise InvalidInput("endpoint", f"is not a URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInput("endpoint", "must be a URL such as http://localhost:11434/v1")
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith(PATH) else path + PATH)


def origin_of(url: httpx.URL) -> str:
    """Identify an endpoint by its host and path: its provider-specific data is returned to it alone."""
    return url.netloc.decode() + url.path.removesuffix(PATH)


def display_url(url: httpx.URL) -> str:
    """Return a URL for messages: without its query, which may hold a secret."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"
