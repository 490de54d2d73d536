"""Audit: making and checking seals, Merkle proofs, and verification of the log."""
