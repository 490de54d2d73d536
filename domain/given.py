"""What the application gives the model beside the user's newest message: a marked block before the user's own words.

What changes from turn to turn stands there, at the end of the prompt, so that everything before it is what the last
prompt held, and providers that cache prefixes find it again. It stands in the user's message because strict endpoints
accept no system message after the first one, and want roles to alternate.

Nothing that was said can open or close the block: whatever looks like its mark loses its bracket in every prompt. The
log keeps texts as they were said.
"""

import re
from collections.abc import Sequence

from domain.recall import Excerpt

BEGINS = "<application_context>\nThis is given by the application. The user has not written it."
ENDS = "\n</application_context>\n\n"

VALUES = "What is known:\n"
RECALLED = "Said before, word for word:\n"

_MARK = re.compile(r"[<\uff1c\ufe64\u2039\u3008](?=[\W_]*application[\W_]*context)", re.IGNORECASE)


def block(values: str, recalled: Sequence[Excerpt]) -> str:
    """Write the block; nothing where there is nothing to give."""
    parts = (
        VALUES + harmless(values) if values else "",
        RECALLED + "\n".join(map(written, recalled)) if recalled else "",
    )
    given = [part for part in parts if part]
    return "\n\n".join([BEGINS, *given]) + ENDS if given else ""


def written(excerpt: Excerpt) -> str:
    """Write a part of an older message for the model: indented, so that no line of it looks like a heading of ours."""
    return harmless(f"- {excerpt.who}: " + "\n  ".join(excerpt.text.splitlines()))


def harmless(text: str) -> str:
    """Take from a text what looks like the block's mark."""
    return _MARK.sub("&lt;", text)


def without_block(text: str) -> str:
    """Return what the user said, of a message as it was sent to a model."""
    return text.partition(ENDS)[2] if text.startswith(BEGINS) else text
