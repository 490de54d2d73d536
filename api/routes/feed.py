"""The feed: the events of all threads, for consumers outside of the service."""

import re
from typing import Annotated

from litestar import get
from litestar.params import QueryParameter

from api.http.authentication import needs
from api.http.feed_cursor import decode_feed_cursor, encode_feed_cursor
from api.http.problems import READ_PROBLEMS
from api.routes.dependencies import FromReader, FromService, Limit
from api.schemas.events import FeedPage, feed_item
from domain.application.streaming.feed import BEGINNING, FeedCursor, FeedFilter
from domain.errors import InvalidInput
from domain.ids import SLICES, Slice
from domain.thread.codec import decode
from domain.thread.events import EVENTS

MAX_WAIT_S = 30.0
"""Seconds that a request may wait for events: less than the usual idle timeout of proxies."""

After = Annotated[
    str | None,
    QueryParameter(description="The next_cursor of the previous page. Default: the beginning of the log."),
]
Slices = Annotated[
    str | None,
    QueryParameter(description="One slice or a range of them, such as 0-63. Default: the cursor's, or all 1,024."),
]
Wait = Annotated[
    float, QueryParameter(ge=0, le=MAX_WAIT_S, description="Seconds to wait for events if there are none yet.")
]
Types = Annotated[str | None, QueryParameter(description="Types of events, separated by commas. Default: all types.")]

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_TYPES = frozenset(event.__name__ for event in EVENTS)


@get("/v1/feed", tags=["feed"], responses=READ_PROBLEMS, opt=needs("threads:read", long=True))
async def read_feed(
    service: FromService,
    reader: FromReader,
    after: After = None,
    limit: Limit = 100,
    slices: Slices = None,
    wait: Wait = 0,
    types: Types = None,
) -> FeedPage:
    """Read the events of all threads, at least once each; those of a slice in the order of their commits."""
    wanted = FeedFilter(reader.tenant, _types(types), limit)
    found = await service.history.feed(_place(after, slices), wanted, wait, reader)
    items = [feed_item(decode(record)) for record in found.records]
    return FeedPage(items, encode_feed_cursor(found.place), found.more)


def _place(after: str | None, slices: str | None) -> FeedCursor:
    place = decode_feed_cursor(after) if after is not None else None
    if slices is None:
        return place or BEGINNING
    match = _RANGE.fullmatch(slices)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < SLICES:
        raise InvalidInput("slices", f"must be a slice from 0 to {SLICES - 1}, or a range of them, such as 0-63")
    return (place or BEGINNING).within(Slice(first), Slice(last))


def _types(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    asked = frozenset(text.split(","))
    for name in sorted(asked - _TYPES):
        raise InvalidInput("types", f"unknown type {name[:50]!r}; expected types such as MessageAppended,TurnCompleted")
    return asked
