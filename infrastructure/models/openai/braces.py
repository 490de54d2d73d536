"""Where an object ends in JSON that comes in pieces, at a cost that does not grow with what came before."""

import re

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
