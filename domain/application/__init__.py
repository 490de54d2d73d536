"""Application use cases: the only part of the domain that waits for anything."""
