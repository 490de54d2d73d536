"""What the routes and commands do: each service joins use cases and read models of one subject."""
