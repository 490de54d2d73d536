"""How events' metadata are stored: what set the agent to work stands in a column of its own.

Of a turn's events, all but two say `{"causation":"<uuid>"}`: 52 characters that are 16 bytes as a UUID. The hash
covers the text, so it is put together again, byte by byte, wherever events are read.
"""

import re
from functools import lru_cache
from uuid import UUID

AS_IT_IS = UUID(int=0)
"""Says in `causation` that the whole text is in `metadata`. A null there would make each row eight bytes longer."""

_CAUSATION_FIRST = re.compile(r'\{"causation":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"(?:\}|,(".*))', re.DOTALL)

METADATA = f"""CASE WHEN causation = '{AS_IT_IS}' THEN metadata::text
            ELSE '{{"causation":"' || causation::text || '"'
                 || CASE metadata::text WHEN '{{}}' THEN '' ELSE ',' END || substr(metadata::text, 2)
       END AS metadata"""
"""The text, of what `taken_apart` has made of it."""


@lru_cache(maxsize=256)  # the events of a turn have the same text
def taken_apart(metadata: str) -> tuple[str, UUID]:
    """Return what is stored as `metadata` and as `causation`; any other text than ours remains as it is."""
    found = _CAUSATION_FIRST.fullmatch(metadata)
    causation = UUID(found[1]) if found else AS_IT_IS
    if not found or causation == AS_IT_IS:
        return metadata, AS_IT_IS
    return "{" + (found[2] or "}"), causation
