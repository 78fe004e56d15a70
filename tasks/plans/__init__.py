"""What a deletion would do, what it would cost, and who has approved it."""
