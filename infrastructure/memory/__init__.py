"""The stores in memory, for `DATABASE_URL=memory://` and for tests: the same contract, lost with the process."""
