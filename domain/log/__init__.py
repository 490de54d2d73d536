"""Integrity of the log: the hash chain of each thread, Merkle trees over slices, and seals (signed roots)."""
