"""Where a test lets the process die."""

import re
from collections.abc import Iterable, Sequence

from domain.ids import Version
from domain.ports.log import Append
from domain.thread.codec import decode
from domain.thread.events import EVENTS, Event, ToolRequested

_WRITTEN = re.compile(
    r"(?P<when>before|after) (?P<kind>\w+)(?: of (?P<name>[^#]*[^# ]))?(?: #(?P<number>[1-9][0-9]*))?"
)

_NAMED_BY = ("tool", "call", "approval", "node")
"""Fields by which an event belongs to a tool or a node."""

_KINDS = {event.__name__: event for event in EVENTS}


class CrashPoint:
    """A point such as "after ToolStarted" or "before ToolSucceeded of refund #2".

    The process dies when the log is about to get, or has just got, an event of that type: any, or one of a tool or
    node, and the first, or the one of that number since this process began.
    """

    def __init__(self, text: str) -> None:
        """Read a point. Raises `ValueError`."""
        self.text, found = text, _WRITTEN.fullmatch(text)
        if found is None or found["kind"] not in _KINDS:
            raise ValueError(
                f"crash={text!r}: write 'before' or 'after' and a type of event, as 'after ToolStarted'; a tool or "
                "node and a number may follow, as in 'before ToolStarted of refund #2'"
            )
        self._when, self._kind, self._name = found["when"], found["kind"], found["name"]
        if self._name and not set(_NAMED_BY) & set(_KINDS[self._kind].__struct_fields__):
            raise ValueError(f"crash={text!r}: {self._kind} is not of a tool or a node; leave out 'of {self._name}'")
        self._left = int(found["number"] or 1)
        self._names: dict[int, str] = {}

    def learn(self, stored: Iterable[tuple[Version, Event]]) -> Sequence[str]:
        """Remember which tools and nodes events belong to. Returns what each event is, as a point names it."""
        shown = []
        for version, event in stored:
            name = self._name_of(event)
            self._names[version] = name
            shown.append(f"{type(event).__name__} of {name}" if name else type(event).__name__)
        return shown

    def reached(self, append: Append) -> bool:
        """Count the events of an append. Returns whether it has the one that is meant."""
        left = self._left
        for recorded in map(decode, append.records):
            self.learn([(recorded.version, recorded.event)])
            if type(recorded.event).__name__ == self._kind and self._name in {None, self._names[recorded.version]}:
                self._left -= 1
        return left > 0 >= self._left

    @property
    def is_before(self) -> bool:
        """Whether the events are lost."""
        return self._when == "before"

    def _name_of(self, event: Event) -> str:
        if isinstance(event, ToolRequested):
            return event.tool
        of = getattr(event, "call", 0) or getattr(event, "approval", 0)
        return self._names.get(of, "") or str(getattr(event, "node", ""))
