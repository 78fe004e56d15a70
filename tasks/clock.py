"""The clock. The only place where the time of day enters, so that everything below it can be replayed."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment, with its zone."""
    return datetime.now(UTC)
