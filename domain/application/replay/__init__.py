"""Replays: a thread's turns run again, and compared with the log."""
