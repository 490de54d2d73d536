"""The projection engine: reads the log in batches, folds threads, and writes rows and positions together."""
