"""A thread's title: the beginning of the user's first message."""

MAX_TITLE_CHARACTERS = 80
"""Maximum characters of a thread's title."""


def title_of(message: str) -> str:
    """Return the beginning of a message as one line."""
    line = " ".join(message[: 4 * MAX_TITLE_CHARACTERS].split())
    return line if len(line) <= MAX_TITLE_CHARACTERS else f"{line[: MAX_TITLE_CHARACTERS - 1]}…"
