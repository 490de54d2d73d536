"""Audit: sealing the log, checking seals, Merkle proofs, and verification of the log."""
