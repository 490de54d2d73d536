"""Headers of every answer that keep browsers from misusing it."""

from litestar.types import Message, Scope

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # answers are about a caller: no cache may give them to another one
}
"""A header that an answer has already stays as it is."""

_ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


async def add_security_headers(message: Message, _scope: Scope) -> None:
    """Add the headers that an answer lacks."""
    if message["type"] == "http.response.start":
        present = {name for name, _ in message["headers"]}
        message["headers"] = [*message["headers"], *(pair for pair in _ENCODED if pair[0] not in present)]
