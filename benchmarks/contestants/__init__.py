"""Programs that measure one way of doing something, each in a process and a database of its own."""
