"""Server-sent events, as far as chat completions use them: the data of each event, whatever the chunks."""

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
_DONE = re.compile(rb"data: ?\[DONE\]")


class EventStreamParser:
    """Takes bytes as they arrive, gives back the data of the events that they complete.

    Lines end with LF, CR LF or CR. Comments and all fields but `data` are passed over. Bytes are decoded by whole
    lines, so a chunk may end inside a character.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._partial: list[bytes] = []
        self._data: list[str] = []
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of each event that ends within `chunk`."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the other half of a CR LF
            self._after_cr = False
            if not chunk:
                return []
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        events: list[str] = []
        for end in ended:
            self._partial.append(end)
            self._line(b"".join(self._partial), events)
            self._partial.clear()
        if rest:
            self._partial.append(rest)
        return events

    def end(self) -> list[str]:
        """Return the data of an event whose closing blank line never came. A line cut in its middle is dropped."""
        last = b"".join(self._partial)
        events: list[str] = []
        if _DONE.fullmatch(last):
            self._line(last, events)
        self._line(b"", events)
        self._partial.clear()
        return events

    def _line(self, line: bytes, events: list[str]) -> None:
        if self._first:
            line = line.removeprefix(_BOM)
            self._first = False
        if not line:
            if self._data:
                events.append("\n".join(self._data))
                self._data.clear()
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
