"""An embedded PostgreSQL, for installations without a server of their own."""

from infrastructure.embedded.account import EmbeddedPostgresFailed
from infrastructure.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresFailed"]
