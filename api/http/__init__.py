"""HTTP: checks of each request, its JSON, parameters and cursors, and errors as problem details."""
