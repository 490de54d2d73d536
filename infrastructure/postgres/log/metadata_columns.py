"""How events' metadata is stored: the id of the event's command is in a column of its own.

Nearly all metadata is `{"causation":"<uuid>"}`, for the command that caused the agent's work, or
`{"command":"<uuid>"}`: 50 characters, which are 16 bytes as a UUID. The hash covers the text, so every read restores it
byte by byte. In the column `metadata`, a causation leaves nothing, and a command leaves `"command":null`, because older
versions of the code know only causations.
"""

import re
from functools import lru_cache
from uuid import UUID

AS_IT_IS = UUID(int=0)
"""The value of `causation` if `metadata` has the whole text. NULL instead would make each row eight bytes longer."""

_NAMED_FIRST = re.compile(
    r'\{"(causation|command)":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"(\}|,"(?!command":null).*)', re.DOTALL
)

METADATA = f"""CASE WHEN causation = '{AS_IT_IS}' THEN metadata::text
            WHEN starts_with(metadata::text, '{{"command":null')
            THEN '{{"command":"' || causation::text || '"' || substr(metadata::text, 16)
            ELSE '{{"causation":"' || causation::text || '"'
                 || CASE metadata::text WHEN '{{}}' THEN '' ELSE ',' END || substr(metadata::text, 2)
       END AS metadata"""
"""Restores the text from the two columns; the inverse of `split_metadata`."""


@lru_cache(maxsize=256)  # the events of a turn have the same text
def split_metadata(metadata: str) -> tuple[str, UUID]:
    """Return the values of `metadata` and `causation`. A text that is not in our form is stored unchanged."""
    found = _NAMED_FIRST.fullmatch(metadata)
    named = UUID(found[2]) if found else AS_IT_IS
    if not found or named == AS_IT_IS:
        return metadata, AS_IT_IS
    rest = found[3]
    return '{"command":null' + rest if found[1] == "command" else "{" + rest.removeprefix(","), named
