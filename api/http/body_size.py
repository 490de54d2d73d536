"""The limit on the size of a request's body."""

MAX_BODY_BYTES = 1_000_000

BODY_TOO_LARGE = f"The body may have at most {MAX_BODY_BYTES:,} bytes."
"""The detail of the 413 that a larger body gets."""
