"""Tool calls put together from what an endpoint sends of them: whole, or in fragments.

Endpoints number fragments badly: with no index, the index 0 for every call, an index that no call has; they repeat
ids and names in every fragment, or send the whole call again. `Calls` decides which call a fragment belongs to.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from msgspec.structs import replace

from domain.json import storable_text
from domain.models.chat import AnswerTooLarge, ToolCall
from domain.thread.codec import to_json
from domain.thread.size_limits import MAX_FACTS, MAX_TEXT
from infrastructure.models.openai.completion import CallPart, Function, with_pairs
from infrastructure.models.openai.provider_data import Opaque
from infrastructure.models.openai.tool_arguments import read_arguments

MAX_NAME = 10_000
"""Characters that are kept of a name: no tool has one of more than 64; and of an id."""

MAX_CALLS = 1_000
"""Calls that one answer may ask for."""

MAX_ALL_ARGUMENTS = MAX_FACTS - MAX_TEXT
"""Characters that the arguments of all its calls may take as JSON, to be stored together with its text."""

TOO_MUCH = f"The arguments of all calls of an answer may take {MAX_ALL_ARGUMENTS:,} characters. Send fewer at a time."

_BROKEN_OFF = frozenset({"length", "max_tokens", "content_filter", "error"})
"""Reasons for an end that a model did not choose."""


class Calls:
    """The calls of one answer, in the order in which they began."""

    def __init__(self) -> None:
        """Start without any."""
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_label: dict[str, _Call] = {}

    def __bool__(self) -> bool:
        """Say whether there is a call."""
        return bool(self._calls)

    @property
    def written(self) -> str:
        """What the model wrote of them."""
        return "".join(call.written for call in self._calls)

    def add(self, part: CallPart, *, whole: bool) -> None:
        """Add a fragment, or a `whole` call. One that says nothing at all is passed over.

        Raises:
            AnswerTooLarge: there are too many calls.
        """
        name, arguments, label = _name(part), _arguments(part), _label(part)
        index = _index(part.index)
        if not (name or arguments or label):
            if part.extra and (call := self._continued(index, "", "", "")):
                call.extra.add(part.extra)
            return
        call = None if whole else self._continued(index, label, name, arguments)
        if call is None:
            call = _Call()
            self._calls.append(call)
            if len(self._calls) > MAX_CALLS:
                raise AnswerTooLarge(f"The model's answer asks for more than {MAX_CALLS:,} calls.")
        if index is not None:
            self._by_index[index] = call
        labelled = bool(call.label)
        call.add(label, name, arguments)
        if label and not labelled:
            self._by_label[label] = call
        call.extra.add(part.extra)

    def whole(self, finish_reason: str) -> tuple[ToolCall, ...]:
        """Return the calls of an answer that is complete. Those to which the endpoint gave no id take spare ones."""
        taken = {call.label for call in self._calls}
        spare = (label for label in (f"call_{n}" for n in count(1)) if label not in taken)
        broken_off = finish_reason in _BROKEN_OFF
        return tuple(_bounded([call.whole(spare, cut=broken_off and call is self._calls[-1]) for call in self._calls]))

    def _continued(self, index: int | None, label: str, name: str, arguments: str) -> "_Call | None":
        """Find the call that a fragment continues; None if it begins one."""
        last = self._calls[-1] if self._calls else None
        same = self._by_label.get(label) if label else None
        if index is None:
            call = same or last
        elif index in self._by_index:
            call = self._by_index[index]
        elif name:  # under a number of its own, a name begins a call; but for one that is said in every fragment
            return same if same and same.lacks(name) else None
        else:  # a number that no call has
            call = same if label else last
        return None if call is None or call.is_followed_by(index, label, name, arguments) else call


class _Call:
    """A tool call in the making."""

    def __init__(self) -> None:
        self.label = ""
        self._name = ""
        self._fragments: list[str] = []
        self.extra = Opaque()
        self._size = 0
        self._braces = Braces()
        self._followed = 0

    @property
    def written(self) -> str:
        return self._name + self._text

    def is_followed_by(self, index: int | None, label: str, name: str, arguments: str) -> bool:
        """Say whether a fragment that seems to continue this call begins another one all the same.

        Only one with a name can, where this call has its own: if its id is another one; if this call's arguments are
        complete and it brings others, or has no id to compare; if its name is another one that comes too late.
        """
        if not (name and self._name):
            return False
        if label and self.label and label != self.label:
            return True
        if not self._is_complete:
            return name != self._name and (bool(self._fragments) or index is None)
        if label and self.label:
            return name != self._name or bool(arguments.strip() and arguments.strip() != self._text.strip())
        return True

    def lacks(self, name: str) -> bool:
        """Say whether the arguments have begun and go on, in a call of this name."""
        return name == self._name and bool(self._fragments) and not self._is_complete

    def add(self, label: str, name: str, arguments: str) -> None:
        again = bool(name) and name == self._name and len(arguments) == self._size
        repeats = again and arguments == self._text and self._is_complete
        self.label = self.label or label
        if not self._name or (name != self._name and not self._fragments):
            self._name = (self._name + name)[:MAX_NAME]
        if arguments and not repeats:
            self._fragments.append(arguments)
            self._size += len(arguments)

    @property
    def _text(self) -> str:
        return "".join(self._fragments)

    @property
    def _is_complete(self) -> bool:
        """Whether the braces of the arguments are closed."""
        for fragment in self._fragments[self._followed :]:
            self._braces.follow(fragment)
        self._followed = len(self._fragments)
        return self._braces.are_closed

    def whole(self, spare_ids: Iterator[str], *, cut: bool) -> ToolCall:
        label = storable_text(self.label[:MAX_NAME]) or next(spare_ids)
        read = read_arguments(with_pairs(self._text), cut=cut)
        name = storable_text(with_pairs(self._name))
        return ToolCall(label, name, read.values, read.written, read.fault, self.extra.whole())


def _bounded(calls: Sequence[ToolCall]) -> Iterator[ToolCall]:
    """Give a fault to those whose arguments take more, with those before them, than one answer may."""
    size = 0
    for call in calls:
        size += len(to_json(call.arguments))
        yield call if size <= MAX_ALL_ARGUMENTS else replace(call, arguments={}, fault=TOO_MUCH)


def _index(given: Any) -> int | None:
    """Read the number of a call, which may be written as a text or a fraction."""
    try:
        return None if given is None else int(given)
    except (ValueError, TypeError, OverflowError):
        return None


def _label(part: CallPart) -> str:
    return part.id if isinstance(part.id, str) else "" if part.id is None else json.dumps(part.id)


def _name(part: CallPart) -> str:
    named = part.function or part.custom or Function()
    return named.name if isinstance(named.name, str) else ""


def _arguments(part: CallPart) -> str:
    """Return the arguments as text: some endpoints send an object, and what else may come is written as JSON."""
    given = (part.function or Function()).arguments if part.custom is None else part.custom.input
    return given if isinstance(given, str) else "" if given is None else json.dumps(given)


_MARK = re.compile(r"""["\\{}\[\]]""")


class Braces:
    """Follows the brackets of a text, piece by piece. Those within strings do not count."""

    def __init__(self) -> None:
        """Start before the text."""
        self._depth = 0
        self._in_string = False
        self._begun = False
        self._escaped = False

    @property
    def are_closed(self) -> bool:
        """Whether an object has begun, and every bracket since is closed."""
        return self._begun and not (self._depth or self._in_string)

    def follow(self, piece: str) -> None:
        """Take in the next piece."""
        if not piece:
            return
        skipped = 0 if self._escaped else -1  # the place of a character that a backslash makes mean itself
        self._escaped = False
        for mark in _MARK.finditer(piece):
            if mark.start() == skipped:
                continue
            match mark[0]:
                case "\\" if self._in_string:
                    skipped = mark.end()
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[" if not self._in_string:
                    self._begun = self._begun or mark[0] == "{"
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
        self._escaped = skipped == len(piece)
