"""An airline's service desk, and 40 recorded conversations with it."""
