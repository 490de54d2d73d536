"""The event store on PostgreSQL: group commit, the append statement, and reads of the log."""
