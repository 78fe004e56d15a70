"""Ledgers of a few events."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.keys import create_keys
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Workspace(tmp_path))


@pytest.fixture
def signed(ledger: Ledger) -> Ledger:
    """A ledger of three events, signed."""
    create_keys(Workspace(ledger.path.parents[2]))
    for number in range(3):
        ledger.append("step", f"r-{number % 2}", {"number": number, "share": 0.5, "name": "Zoë"}, NOW + timedelta(seconds=number))
    ledger.sign_checkpoint()
    return ledger
