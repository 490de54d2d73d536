"""The log's integrity: the hash chain of a thread, Merkle trees over slices, and signed roots."""
