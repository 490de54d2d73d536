"""Read models on PostgreSQL: a table for each instance, and a view for each that serves."""
