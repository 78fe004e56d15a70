"""Three events of two requests."""

from datetime import UTC, datetime, timedelta

from tasks.ledger.store import Ledger

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def append_three(ledger: Ledger) -> None:
    for number in range(3):
        ledger.append("step", f"r-{number % 2}", {"number": number, "share": 0.5, "name": "Zoë"}, NOW + timedelta(seconds=number))
