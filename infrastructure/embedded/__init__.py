"""A PostgreSQL of our own, for whoever has none."""

from infrastructure.embedded.account import EmbeddedPostgresFailed
from infrastructure.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresFailed"]
