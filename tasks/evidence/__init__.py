"""What an auditor reads: signed records, receipts, time stamps, and their judging and replaying."""
