"""Judging signatures by the keys that counted at a trusted time.

A time is trusted by where it comes from: an RFC 3161 authority's stamp (`rfc3161`), else the time at which the ledger recorded an event
(`ledger`). The time that a document states of itself isn't one. Where neither is at hand (`none`) a signature is judged as of the moment
of checking, which is the strictest: whoever stole a key that was revoked since could have dated it as they liked.

What was signed with a key that was revoked or had expired by then, or didn't count yet, is refused; what was signed before stays good. The
ledger's own time is only as good as the key that signs its checkpoints: against the theft of that key an authority's stamp is needed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cdm_core.digests import Json
from cdm_core.errors import VerificationError

TimeSource = Literal["rfc3161", "ledger", "none"]

_WORDS: Mapping[TimeSource, str] = {
    "rfc3161": "as time-stamped at",
    "ledger": "as the ledger recorded it at",
    "none": "no trusted time is at hand; as of",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """A key counts from `valid_from` until before `valid_until` and before `revoked_at`; None sets no bound."""

    valid_from: datetime | None = None
    valid_until: datetime | None = None
    revoked_at: datetime | None = None

    def __post_init__(self) -> None:
        if any(time is not None and time.tzinfo is None for time in (self.valid_from, self.valid_until, self.revoked_at)):
            raise ValueError("the times of a key's validity need a time zone")

    def why_invalid(self, at: datetime) -> str | None:
        """Why the key doesn't count at a time; None if it does."""
        if self.revoked_at is not None and at >= self.revoked_at:
            return f"was revoked since {self.revoked_at.isoformat()}"
        if self.valid_from is not None and at < self.valid_from:
            return f"is valid only from {self.valid_from.isoformat()}"
        if self.valid_until is not None and at >= self.valid_until:
            return f"expired at {self.valid_until.isoformat()}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedTime:
    """When something was signed, and who says so."""

    at: datetime
    source: TimeSource

    def to_json(self) -> dict[str, Json]:
        """For an answer."""
        return {"at": self.at.isoformat(), "source": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who may sign requests (`issuer`) or approve plans (any other role): the key by its keyid, its roles and its validity."""

    keyid: str
    roles: tuple[str, ...]
    validity: Validity


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody signed before a record was made of it, such as `the request` or `an approval`: with which key, as what, and when."""

    what: str
    keyid: str
    role: str
    time: TrustedTime


def find_problem(keyid: str, validity: Validity, time: TrustedTime) -> str | None:
    """Why what a key signed doesn't count at that time; None if it does."""
    problem = validity.why_invalid(time.at)
    return None if problem is None else f"key {keyid[:12]} {problem} ({_WORDS[time.source]} {time.at.isoformat()})"


def require_counted(keyid: str, validity: Validity, time: TrustedTime) -> None:
    """Refuse a signature whose key didn't count.

    Raises:
        VerificationError: says why.
    """
    if (problem := find_problem(keyid, validity, time)) is not None:
        raise VerificationError(f"the signature doesn't count: {problem}")


def judge_acts(acts: Iterable[Act], parties: Mapping[str, Party]) -> dict[str, int]:
    """How many acts of each kind were judged, all of them by a key that counted in its role at its time.

    Raises:
        VerificationError: names the first whose key is unknown, has another role, or didn't count.
    """
    judged: dict[str, int] = {}
    for act in acts:
        party = parties.get(act.keyid)
        if party is None or act.role not in party.roles:
            raise VerificationError(f"{act.what}: signed with key {act.keyid[:12]}, which is registered in no role {act.role}")
        if (problem := find_problem(act.keyid, party.validity, act.time)) is not None:
            raise VerificationError(f"{act.what}: {problem}")
        judged[act.what] = judged.get(act.what, 0) + 1
    return judged
