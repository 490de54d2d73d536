"""The database's schema as a sequence of migrations. `migrations.run.migrate` applies the missing ones."""
