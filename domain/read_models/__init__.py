"""Read models: tables of rows, and the queries that they answer."""
