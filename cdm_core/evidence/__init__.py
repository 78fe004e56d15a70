"""Statements, envelopes, proofs and keys: what anyone can check offline."""
