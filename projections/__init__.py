"""Read models: each is a fold of the log into what a query asks for."""
