"""An embedded PostgreSQL, for when DATABASE_URL is empty."""

from infrastructure.embedded.account import EmbeddedPostgresFailed
from infrastructure.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresFailed"]
