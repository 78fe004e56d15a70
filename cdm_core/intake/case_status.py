"""Where a request stands, as the forms' answers are built from it.

What a sender asks is whether the data is gone. It is once the request was closed, whatever became of the model's quality afterwards: a
composition that waits for a person's review, or was rejected, has nothing to do with it. A held request waits, and is taken up again when
the hold ends; what wasn't held is gone by then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Outcome = Literal["exempted", "partly_held", "matched", "shared", "not_found"]
"""What came of one identifier: all of an owner's samples are held, some are, or none; `shared` identifiers belong to several owners, and
nothing is deleted by them."""

Progress = Literal["received", "under_way", "held", "failed", "done", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldUntil:
    """Why and until when samples of a request aren't erased yet."""

    ground: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseStatus:
    """One request: `request_id` as its sender gave it (None if it gave none), `ledger_id` as the workspace names it.

    `status` is the ledger's; `is_closed` says that what it names and isn't held was erased, `num_erased` how many samples that were;
    `reason` says why it was refused, `extension` why its period was extended; `content` is None once it was forgotten.
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
    is_closed: bool = False
    num_erased: int | None = None
    holds: Sequence[HeldUntil] = ()
    extension: str | None = None

    @property
    def progress(self) -> Progress:
        """How far it is, in the words that the forms' states have in common."""
        match self.status:
            case "refused":
                return "refused"
            case "held":
                return "held"
            case "received":
                return "received"
            case "failed":
                return "failed"
            case "completed":
                return "done"
        if not self.is_closed:
            return "under_way"
        return "held" if self.holds else "done"

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done now."""
        return self.progress in ("received", "under_way", "failed")


def format_time(time: datetime) -> str:
    """RFC 3339 in whole seconds."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
