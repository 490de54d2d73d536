"""Validation of a subject: the name of the customer that a thread is about, or whose spending is limited."""

import unicodedata

from domain.errors import InvalidInput
from domain.json import check_text
from domain.thread.size_limits import MAX_SUBJECT_CHARACTERS

INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of characters that one cannot see, or that change the direction of those around them.

Two subjects that look the same would be two customers, each with limits of its own.
"""


def check_subject(subject: str) -> None:
    """Raise `InvalidInput` unless a text can be a subject."""
    check_text(subject, "subject")
    if not subject.strip():
        raise InvalidInput("subject", "must not be empty")
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        raise InvalidInput("subject", f"must have at most {MAX_SUBJECT_CHARACTERS} characters")
    if subject != subject.strip():
        raise InvalidInput("subject", "must not begin or end with a space")
    for character in subject:
        if unicodedata.category(character) in INVISIBLE:
            raise InvalidInput("subject", f"must not contain the invisible character U+{ord(character):04X}")
