"""The shapes of request bodies and of answers."""
