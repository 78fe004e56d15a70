"""Adapters: trained from the last clean checkpoint, in worker processes."""
