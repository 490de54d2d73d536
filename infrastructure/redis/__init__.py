"""What Redis may do where REDIS_URL names one: carry wake-ups, and hold answers that are not stored yet."""
