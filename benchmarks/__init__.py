"""Programs that print numbers."""
