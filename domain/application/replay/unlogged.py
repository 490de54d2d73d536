"""Keeps the failures of replayed turns out of the log: they are in the report, and no turn of the service failed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_replaying: ContextVar[bool] = ContextVar("replaying", default=False)

LOGGERS = ("node_context", "provider_data", "run", "tool_calls", "turn_loop", "user_code")
"""The modules of `domain.application.turns` that log what happens in a turn."""


@contextmanager
def unlogged() -> Iterator[None]:
    """Drop the log lines of turns that run in this block, and in tasks that start in it."""
    token = _replaying.set(True)
    try:
        yield
    finally:
        _replaying.reset(token)


def _is_logged(_: logging.LogRecord) -> bool:
    return not _replaying.get()


for _name in LOGGERS:
    logging.getLogger(f"domain.application.turns.{_name}").addFilter(_is_logged)
