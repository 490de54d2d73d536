"""The database's schema and its history. `migrations.run.migrate` brings a database up to date."""
