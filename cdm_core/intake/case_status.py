"""Where a request stands, as the forms' answers are built from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

Outcome = Literal["exempted", "matched", "shared", "not_found"]
"""What came of one identifier: `shared` ones belong to several owners, and nothing is deleted by them."""

OPEN = ("received", "planned", "stopped", "retraining", "needs_review", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseStatus:
    """One request: `request_id` as its sender gave it (None if it gave none), `ledger_id` as the workspace names it.

    `status` is the ledger's; `reason` says why it was refused; `content` is None once it was forgotten.
    """

    request_id: str | None
    ledger_id: str
    issuer: str | None = field(repr=False)
    status: str
    reason: str | None
    received_at: datetime
    expected_by: datetime
    content: bytes | None = field(repr=False)
    outcomes: Mapping[str, Outcome]

    @property
    def is_open(self) -> bool:
        """Whether it is still to be carried out."""
        return self.status in OPEN


def compute_expected_by(regulation: str, received_at: datetime) -> datetime:
    """When the sender may expect the end: one calendar month under the GDPR, 45 days otherwise."""
    if regulation != "gdpr":
        return received_at + timedelta(days=45)
    year, month = (received_at.year, received_at.month + 1) if received_at.month < 12 else (received_at.year + 1, 1)
    first_after = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=received_at.tzinfo)
    last_day = (first_after - timedelta(days=1)).day
    return received_at.replace(year=year, month=month, day=min(received_at.day, last_day))


def format_time(time: datetime) -> str:
    """RFC 3339 in whole seconds."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
