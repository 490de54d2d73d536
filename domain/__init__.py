"""What a conversation on an event log is, with no input or output of its own."""
