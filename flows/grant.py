"""`lethe grant`: allow somebody to draw with some shards, until a day."""

from datetime import UTC, datetime
from pathlib import Path

from cdm_core.errors import InvalidInputError
from tasks.clock import utc_now
from tasks.files import check_writable
from tasks.models.entitlements import write_grant
from tasks.workspace import open_workspace


def run_grant(directory: Path, *, subject: str, shards: str, expires: str, out: Path) -> dict[str, object]:
    """Write a signed grant."""
    ws, expires_at = open_workspace(directory), _parse_moment(expires)
    if expires_at <= utc_now():
        raise InvalidInputError(f"expires: {expires} is over already")
    if not check_writable(out).parent.is_dir():
        raise InvalidInputError(f"{out}: its folder doesn't exist")
    grant = write_grant(ws, out, subject=subject, shards=parse_shards(shards), expires_at=expires_at)
    return {"out": str(out), "keyid": grant.workspace, **grant.to_document()}


def parse_shards(text: str) -> list[int]:
    """Shard numbers as typed: 0,3.

    Raises:
        InvalidInputError: they are something else.
    """
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InvalidInputError(f"shards: {text!r} is not a list of numbers such as 0,3") from error


def _parse_moment(text: str) -> datetime:
    """A day (its beginning in UTC) or a moment; one that names no zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInputError(f"expires: {text!r} is neither a date such as 2027-01-31 nor an ISO 8601 time") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
