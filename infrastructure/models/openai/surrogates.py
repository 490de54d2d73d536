"""Characters outside the basic plane whose UTF-16 halves an endpoint sends apart: an emoji cut between two chunks."""

import re

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def with_pairs(text: str) -> str:
    """Put halves together that belong together. A lone one stays."""
    return text if text.isascii() else _PAIR.sub(_whole, text)


class PairedText:
    """Takes pieces of a text and gives them back with whole characters: a first half waits for the second."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._half = ""

    def add(self, piece: str) -> str:
        """Return what can be shown by now."""
        if not piece:
            return ""
        text = with_pairs(self._half + piece)
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        return text[:-1] if self._half else text

    def end(self) -> str:
        """Return a half whose other half did not come."""
        half, self._half = self._half, ""
        return half


def _whole(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
