"""Who asked what, and what became of it: an append-only tree of events, and the rows that follow from it."""
