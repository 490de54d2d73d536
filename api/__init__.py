"""The outside: HTTP, the command line, and the composition root."""
