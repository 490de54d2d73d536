"""How events' metadata are stored: the command that an event is of stands in a column of its own.

Nearly all say `{"causation":"<uuid>"}`, for the command that set the agent to work, or `{"command":"<uuid>"}`: 50
characters that are 16 bytes as a UUID. The hash covers the text, so it is put together again, byte by byte, wherever
events are read. Of a causation nothing is left in `metadata`, of a command `"command":null`: code from before, which
knows causations only, can read that.
"""

import re
from functools import lru_cache
from uuid import UUID

AS_IT_IS = UUID(int=0)
"""Says in `causation` that the whole text is in `metadata`. A null there would make each row eight bytes longer."""

_NAMED_FIRST = re.compile(
    r'\{"(causation|command)":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"(\}|,"(?!command":null).*)', re.DOTALL
)

METADATA = f"""CASE WHEN causation = '{AS_IT_IS}' THEN metadata::text
            WHEN starts_with(metadata::text, '{{"command":null')
            THEN '{{"command":"' || causation::text || '"' || substr(metadata::text, 16)
            ELSE '{{"causation":"' || causation::text || '"'
                 || CASE metadata::text WHEN '{{}}' THEN '' ELSE ',' END || substr(metadata::text, 2)
       END AS metadata"""
"""The text, of what `taken_apart` has made of it."""


@lru_cache(maxsize=256)  # the events of a turn have the same text
def taken_apart(metadata: str) -> tuple[str, UUID]:
    """Return what is stored as `metadata` and as `causation`; any other text than ours remains as it is."""
    found = _NAMED_FIRST.fullmatch(metadata)
    named = UUID(found[2]) if found else AS_IT_IS
    if not found or named == AS_IT_IS:
        return metadata, AS_IT_IS
    rest = found[3]
    return '{"command":null' + rest if found[1] == "command" else "{" + rest.removeprefix(","), named
