"""Tool calls put together from what an endpoint sends: whole calls, or fragments of streamed ones.

Endpoints number fragments badly: with no index, the index 0 for every call, or an index that no call has. Some repeat
ids and names in every fragment, or send the whole call again. `ToolCalls` decides which call a fragment belongs to.
"""

import re
from collections.abc import Iterator
from itertools import count

from msgspec.structs import replace

from domain.json import MAX_ITEMS, storable_text
from domain.json_scan import count_items
from domain.models.chat import MAX_TOOL_CALLS, AnswerTooLarge, ToolCall
from domain.thread.codec import to_json
from domain.thread.size_limits import MAX_FACTS, MAX_TEXT_BYTES
from infrastructure.models.openai.completion import ToolCallPart
from infrastructure.models.openai.provider_data import ExtraFields
from infrastructure.models.openai.surrogates import join_surrogates
from infrastructure.models.openai.tool_arguments import Arguments, read_arguments

MAX_NAME_CHARS = 200
"""What is kept of a tool's name. No tool's name has more than 64 characters."""

MAX_ID_CHARS = 10_000
"""What is kept of an id: some gateways put a signature into it."""

MAX_ALL_ID_CHARS = 128 * 1024
"""Characters of the ids of all calls of an answer. The calls beyond that get ids of ours."""

MAX_ALL_ARGUMENTS = MAX_FACTS - MAX_TEXT_BYTES
"""Characters of JSON that the arguments of all calls of an answer may take, to be stored together with its text."""

_TOO_MUCH = (
    f"The arguments of all calls of an answer may take {MAX_ALL_ARGUMENTS:,} characters and have {MAX_ITEMS:,} items. "
    "Send fewer at a time."
)

_CUT_OFF = frozenset({"length", "max_tokens", "content_filter", "error"})
"""Finish reasons that the model did not choose."""


class ToolCalls:
    """The calls of one answer, in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_label: dict[str, _Call] = {}

    def __bool__(self) -> bool:
        """Whether there is a call."""
        return bool(self._calls)

    @property
    def written(self) -> str:
        """The names and arguments that the model wrote so far."""
        return "".join(call.name + call.text for call in self._calls)

    def add(self, part: ToolCallPart, *, whole: bool) -> None:
        """Add a fragment, or a `whole` call. An empty one is ignored.

        Raises:
            AnswerTooLarge: there are too many calls.
        """
        if not (part.name or part.arguments or part.label):
            if part.extra and (call := self._continued(part)):
                call.extra.add(part.extra)
            return
        call = None if whole else self._continued(part)
        if call is None:
            call = _Call()
            self._calls.append(call)
            if len(self._calls) > MAX_TOOL_CALLS:
                raise AnswerTooLarge(f"The model's answer asks for more than {MAX_TOOL_CALLS:,} calls.")
        if part.index is not None:
            self._by_index[part.index] = call
        if part.label and not call.label:
            self._by_label[part.label] = call
        call.add(part)

    def build(self, finish_reason: str) -> tuple[ToolCall, ...]:
        """Return the calls of a complete answer. A call without an id gets one that is free.

        A call that exceeds, with those before it, the limit of an answer has a fault instead of its arguments.
        """
        taken = {call.label for call in self._calls}
        free_ids = (label for label in (f"call_{n}" for n in count(1)) if label not in taken)
        cut_off = finish_reason in _CUT_OFF
        calls, size, ids, written = list[ToolCall](), 0, 0, 0
        for part in self._calls:
            ids += len(part.label)
            written += part.items
            too_much = written > MAX_ITEMS
            label = part.label if ids <= MAX_ALL_ID_CHARS else ""
            call = part.build(label, free_ids, cut=cut_off and part is self._calls[-1], unread=too_much)
            size += len(to_json(call.arguments))
            if too_much or size > MAX_ALL_ARGUMENTS:
                call = replace(call, arguments={}, fault=_TOO_MUCH)
            calls.append(call)
        return tuple(calls)

    def _continued(self, part: ToolCallPart) -> "_Call | None":
        """Return the call that a fragment continues; None if it begins one."""
        last = self._calls[-1] if self._calls else None
        same = self._by_label.get(part.label)
        if part.index is None:
            call = same or last
        elif part.index in self._by_index:
            call = self._by_index[part.index]
        elif part.name:  # at a new index a name begins a call, unless the endpoint repeats the name in every fragment
            return same if same and same.is_incomplete(part.name) else None
        else:  # an index that no call has
            call = same if part.label else last
        return None if call is None or call.ends_before(part) else call


class _Call:
    """A tool call that is being put together."""

    def __init__(self) -> None:
        self.label = ""
        self.name = ""
        self._fragments: list[str] = []
        self.extra = ExtraFields()
        self._size = 0
        self._braces = Braces()
        self._pieces_read = 0

    def ends_before(self, part: ToolCallPart) -> bool:
        """Say whether a fragment that seems to continue this call begins another one.

        It can only if both have a name. It does if its id differs; if this call's arguments are complete and it brings
        other ones, or has no id to compare; or if its name differs and comes too late to continue this call's name.
        """
        if not (part.name and self.name):
            return False
        if part.label and self.label and part.label != self.label:
            return True
        if not self._is_complete:
            return part.name != self.name and (bool(self._fragments) or part.index is None)
        if not (part.label and self.label) or part.name != self.name:
            return True
        brings = part.arguments.strip()
        return bool(brings) and brings != self.text.strip()  # joins the text only if the fragment brings another

    def is_incomplete(self, name: str) -> bool:
        """Say whether this is a call of that name whose arguments have begun and not ended."""
        return name == self.name and bool(self._fragments) and not self._is_complete

    def add(self, part: ToolCallPart) -> None:
        name, arguments = part.name[:MAX_NAME_CHARS], part.arguments
        again = bool(name) and name == self.name and len(arguments) == self._size
        repeats = again and arguments == self.text and self._is_complete
        self.extra.add(part.extra)
        self.label = self.label or part.label[:MAX_ID_CHARS]
        if not self.name or (name != self.name and not self._fragments):
            self.name = (self.name + name)[:MAX_NAME_CHARS]
        if arguments and not repeats:
            self._fragments.append(arguments)
            self._size += len(arguments)

    @property
    def text(self) -> str:
        return "".join(self._fragments)

    @property
    def _is_complete(self) -> bool:
        """Whether the braces of the arguments are closed."""
        for fragment in self._fragments[self._pieces_read :]:
            self._braces.follow(fragment)
        self._pieces_read = len(self._fragments)
        return self._braces.are_closed

    @property
    def items(self) -> int:
        """The items of the arguments: a short text has few."""
        return count_items(self.text.encode(errors="surrogatepass"), MAX_ITEMS).items

    def build(self, label: str, free_ids: Iterator[str], *, cut: bool, unread: bool) -> ToolCall:
        """Make the call. `unread`: its arguments are not parsed."""
        label = storable_text(label) or next(free_ids)
        read = Arguments({}) if unread else read_arguments(join_surrogates(self.text), cut=cut)
        name = storable_text(join_surrogates(self.name))
        return ToolCall(label, name, read.values, read.written, read.fault, self.extra.build())


MAX_SLOW_CHARS = 4_096
"""Characters of a piece that are followed bracket by bracket."""

_BRACKET_OR_QUOTE = re.compile(r"""["\\{}\[\]]""")


class Braces:
    """Tells where an object ends in JSON that comes in pieces. Its cost does not grow with what came before."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._begun = False
        self._escaped = False

    @property
    def are_closed(self) -> bool:
        """Whether an object has begun, and every bracket since is closed."""
        return self._begun and not (self._depth or self._in_string)

    def follow(self, piece: str) -> None:
        """Read the next piece. Brackets within strings do not count."""
        if not piece:
            return
        if len(piece) > MAX_SLOW_CHARS:
            self._follow_long(piece)
            return
        skipped = 0 if self._escaped else -1  # the position of a character that a backslash escapes
        self._escaped = False
        for found in _BRACKET_OR_QUOTE.finditer(piece):
            if found.start() == skipped:
                continue
            match found[0]:
                case "\\" if self._in_string:
                    skipped = found.end()
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[" if not self._in_string:
                    self._begun = self._begun or found[0] == "{"
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
        self._escaped = skipped == len(piece)

    def _follow_long(self, piece: str) -> None:
        """Read a long piece, by functions of the interpreter. A backslash counts as within a string."""
        if self._escaped:
            piece = piece[1:]
        plain = piece.replace("\\\\", "")
        self._escaped = plain.endswith("\\")
        parts = plain.replace('\\"', "").split('"')
        outside = "".join(parts[1 if self._in_string else 0 :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._begun = self._begun or "{" in outside
        self._depth += sum(map(outside.count, "{[")) - sum(map(outside.count, "}]"))
