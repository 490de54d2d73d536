"""Read models: tables of rows, and queries to them."""
