"""An embedded PostgreSQL, for when DATABASE_URL is empty."""
