"""What Alembic runs for each command. `migrations/upgrade.py` gives it an open connection and owns the transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
