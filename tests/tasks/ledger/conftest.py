"""Ledgers of a few events."""

from pathlib import Path

import pytest
from three_events import append_three

from tasks.keys import create_keys
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Workspace(tmp_path))


@pytest.fixture
def signed(ledger: Ledger) -> Ledger:
    """A ledger of three events, signed."""
    create_keys(Workspace(ledger.path.parents[2]))
    append_three(ledger)
    ledger.sign_checkpoint()
    return ledger
