"""Joins the halves of characters such as emoji, which some endpoints send in two chunks or two escapes."""

UTF_16 = ("utf-16-le", "surrogatepass")
"""The codec that joins halves, and leaves a lone half as it is."""


def join_surrogates(text: str) -> str:
    """Join the halves in a text. A lone half stays."""
    return text.encode(*UTF_16).decode(*UTF_16)
