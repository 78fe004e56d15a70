"""Forgetting's own steps: stop, remove, look for traces, purge, and keep what was erased from coming back."""
