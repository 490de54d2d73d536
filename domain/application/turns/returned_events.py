"""What a node returns: a list of events, or an error that says what to write instead."""

import inspect
from collections.abc import Iterable, Sequence
from typing import cast

from domain.errors import InvalidInput
from domain.thread.events import Event, NodeEvent


def returned_events(events: object) -> Sequence[NodeEvent]:
    """Return a node's events. Raises `InvalidInput` for what a node must not return, with what to write instead."""
    if isinstance(events, list | tuple):
        return events  # nearly always
    why = None
    if events is None:
        why = "return a list of events; without any, return []"
    elif isinstance(events, Event):
        why = f"return a list of events, as in [event], not a single {type(events).__name__}"
    elif inspect.isawaitable(events):
        if inspect.iscoroutine(events):
            events.close()  # it never runs
        why = "return the events of an awaited call, as in `return await turn.generate()`"
    elif not isinstance(events, Iterable) or isinstance(events, str | bytes | dict):
        why = f"return a list of events, not {type(events).__name__}"
    if why is not None:
        raise InvalidInput("events", why)
    return list(cast("Iterable[NodeEvent]", events))
