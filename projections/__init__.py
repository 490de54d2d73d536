"""Read models: each is a fold of the log into rows for queries."""
