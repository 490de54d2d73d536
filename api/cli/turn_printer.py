"""Printing a turn while it runs."""

from typing import assert_never

from rich.console import Console
from rich.text import Text

from api.cli.visible import VisibleParts, visible
from domain.ports.wakeups import Delta, Withdrawn
from domain.thread import events
from domain.thread.codec import Recorded, to_json
from domain.thread.describe import finish_in_words

MAX_TOOL_CHARACTERS = 400
"""Characters of a tool's arguments or result that are printed; the log has all of them."""


class Screen:
    """Prints events and deltas. Deltas are provisional until their `MessageAppended`; withdrawn ones are marked."""

    def __init__(self, *, users: bool = False) -> None:
        """With `users`, the users' messages are shown as well."""
        self._users = users
        self._console = Console(markup=False, emoji=False, highlight=False)
        self._provisional = ""
        self._parts = VisibleParts()
        self._calls: dict[int, events.ToolRequested] = {}
        self._open: set[int] = set()
        self._several = False

    def show(self, signal: Recorded | Delta | Withdrawn) -> None:
        """Print an event or a delta."""
        match signal:
            case Delta(text=text):
                self._provisional += text
                self._write(self._parts.add(text), end="")
            case Withdrawn():
                self._withdraw()
            case Recorded():
                self._event(signal.version, signal.event)
            case _:
                assert_never(signal)

    def note(self, text: str) -> None:
        """Print a line that is not part of the conversation."""
        self._end_line()
        self._print(text, style="dim")

    def complain(self, text: str) -> None:
        """Print an error."""
        self._end_line()
        self._print(text, style="red")

    def _event(self, version: int, event: events.Event) -> None:
        match event:
            case events.MessageAppended():
                self._message(event)
            case events.ToolRequested():
                self._calls[version] = event
            case events.ToolStarted(call=call):
                self._start(call)
            case events.ToolSucceeded(call=call, content=content):
                self._end(call, content)
            case events.ToolFailed(call=call, error=error) | events.ToolOutcomeUnknown(call=call, error=error):
                self._end(call, f"error: {error}")
            case events.NodeFailed(node=node, error=error, retry_in_ms=retry):
                self._withdraw()
                if retry is not None:  # otherwise the turn fails, with the reason
                    self.note(f"{node} failed ({error}); trying again in {retry / 1000:g} s")
            case events.HistoryCompacted():
                self.note("(Older messages were summarised to make room.)")
            case events.ApprovalDenied(reason=reason):
                self.note(f"← {reason}")
            case events.TurnFailed() | events.TurnCancelled() | events.TurnRolledBack():
                self.complain(_how_it_ended(event))
            case events.TurnCompleted(reason=reason) if reason:
                self.complain(f"The turn completed, but {finish_in_words(reason)}.")

    def _message(self, said: events.MessageAppended) -> None:
        if said.role == "assistant":
            content = said.content or ""
            if self._provisional != content:
                self._withdraw()
                self._print(content, end="")
                self._provisional = content
            self._end_line()
        elif self._users:
            self.note(f"> {said.content}")

    def _start(self, call: int) -> None:
        self._open.add(call)
        self._several = len(self._open) > 1  # concurrent calls, so their results need names
        request = self._calls.get(call)
        if request:
            self.note(f"→ {request.tool} {_cut(to_json(request.arguments))}")

    def _end(self, call: int, outcome: str) -> None:
        request = self._calls.pop(call, None)
        self._open.discard(call)
        self.note(f"← {request.tool}: {_cut(outcome)}" if request and self._several else f"← {_cut(outcome)}")

    def _withdraw(self) -> None:
        if self._provisional:
            self.note("(The answer above was not finished and is withdrawn.)")

    def _end_line(self) -> None:
        self._write(self._parts.end(), end="")
        if self._provisional and not self._provisional.endswith("\n"):
            self._print("")
        self._provisional = ""

    def _print(self, text: str, *, end: str = "\n", style: str = "") -> None:
        self._write(visible(text), end=end, style=style)

    def _write(self, text: str, *, end: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), end=end, soft_wrap=True)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TOOL_CHARACTERS else f"{line[:MAX_TOOL_CHARACTERS]}… ({len(line):,} characters)"


def _how_it_ended(end: events.TurnFailed | events.TurnCancelled | events.TurnRolledBack) -> str:
    match end:
        case events.TurnFailed(detail=detail):
            return f"The turn failed. {detail}"
        case events.TurnCancelled():
            return "The turn was cancelled."
        case events.TurnRolledBack():
            return "The turn was rolled back: the thread is as it was before."
