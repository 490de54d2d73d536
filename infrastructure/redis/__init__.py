"""Adapters for REDIS_URL: wake-ups, and answers that are not stored yet."""
