"""Due times: month ends, leap years, time zones, summer time, extensions."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from cdm_core.errors import InvalidInputError
from cdm_core.intake.clocks import Terms, add_months, check_extension, compute_due, parse_span
from cdm_core.intake.requests import Regulation

BERLIN, LOS_ANGELES, UTC_ZONE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Los_Angeles"), ZoneInfo("UTC")

# Received, regulation, zone, first due, extended due: both are the midnight that ends the last day.
DUE = [
    ("2026-03-05T09:00+00:00", "gdpr", UTC_ZONE, "2026-04-06T00:00+00:00", "2026-06-06T00:00+00:00"),
    ("2026-08-31T09:00+00:00", "gdpr", UTC_ZONE, "2026-10-01T00:00+00:00", "2026-12-01T00:00+00:00"),
    ("2027-01-31T09:00+00:00", "gdpr", UTC_ZONE, "2027-03-01T00:00+00:00", "2027-05-01T00:00+00:00"),
    ("2028-01-31T09:00+00:00", "gdpr", UTC_ZONE, "2028-03-01T00:00+00:00", "2028-05-01T00:00+00:00"),
    ("2028-01-29T09:00+00:00", "gdpr", UTC_ZONE, "2028-03-01T00:00+00:00", "2028-04-30T00:00+00:00"),
    ("2027-01-29T09:00+00:00", "gdpr", UTC_ZONE, "2027-03-01T00:00+00:00", "2027-04-30T00:00+00:00"),
    ("2028-02-29T09:00+00:00", "gdpr", UTC_ZONE, "2028-03-30T00:00+00:00", "2028-05-30T00:00+00:00"),
    ("2026-12-31T23:59+00:00", "gdpr", UTC_ZONE, "2027-02-01T00:00+00:00", "2027-04-01T00:00+00:00"),
    ("2026-01-31T23:30+00:00", "gdpr", BERLIN, "2026-03-01T23:00+00:00", "2026-05-01T22:00+00:00"),
    ("2026-03-15T12:00+00:00", "gdpr", BERLIN, "2026-04-15T22:00+00:00", "2026-06-15T22:00+00:00"),
    ("2026-01-01T00:00+00:00", "ccpa", UTC_ZONE, "2026-02-16T00:00+00:00", "2026-04-02T00:00+00:00"),
    ("2028-01-20T00:00+00:00", "ccpa", UTC_ZONE, "2028-03-06T00:00+00:00", "2028-04-20T00:00+00:00"),
    ("2026-02-01T05:00+00:00", "ccpa", LOS_ANGELES, "2026-03-18T07:00+00:00", "2026-05-02T07:00+00:00"),
    ("2026-01-01T00:00+00:00", "contract", UTC_ZONE, "2026-02-01T00:00+00:00", "2026-02-01T00:00+00:00"),
    ("2026-01-01T00:00+00:00", "voluntary", UTC_ZONE, "2026-04-02T00:00+00:00", "2026-07-01T00:00+00:00"),
]


@pytest.mark.parametrize(("received", "regulation", "zone", "due", "extended"), DUE)
def test_due_times(received: str, regulation: Regulation, zone: ZoneInfo, due: str, extended: str) -> None:
    at = datetime.fromisoformat(received)
    assert compute_due(regulation, at, terms=Terms(), zone=zone) == datetime.fromisoformat(due)
    assert compute_due(regulation, at, terms=Terms(), zone=zone, extended=True) == datetime.fromisoformat(extended)


def test_the_same_moment_is_due_at_one_time_however_it_is_written() -> None:
    at = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    assert compute_due("gdpr", at, terms=Terms(), zone=BERLIN) == compute_due("gdpr", at.astimezone(BERLIN), terms=Terms(), zone=BERLIN)


@pytest.mark.parametrize(("day", "months", "expected"), [((2024, 2, 29), 12, (2025, 2, 28)), ((2026, 11, 30), 3, (2027, 2, 28))])
def test_months(day: tuple[int, int, int], months: int, expected: tuple[int, int, int]) -> None:
    assert add_months(date(*day), months) == date(*expected)


def test_an_extension_is_given_inside_the_first_period() -> None:
    at = datetime(2026, 3, 5, 9, tzinfo=UTC)
    last = datetime(2026, 4, 6, tzinfo=UTC)
    before = last - timedelta(microseconds=1)
    assert check_extension("gdpr", at, before, terms=Terms(), zone=UTC_ZONE) == datetime(2026, 6, 6, tzinfo=UTC)
    with pytest.raises(InvalidInputError, match="the first period ended at 2026-04-06"):
        check_extension("gdpr", at, last, terms=Terms(), zone=UTC_ZONE)
    with pytest.raises(InvalidInputError, match=r"contract: params\.yaml gives this term no extension"):
        check_extension("contract", at, at, terms=Terms(), zone=UTC_ZONE)


def test_misuse() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        compute_due("gdpr", datetime(2026, 1, 1), terms=Terms(), zone=UTC_ZONE)
    with pytest.raises(ValueError, match="at least 1 for a period"):
        Terms(contract_days=0)


@pytest.mark.parametrize(("text", "span"), [("7d", timedelta(days=7)), ("36h", timedelta(hours=36)), ("0d", timedelta())])
def test_spans(text: str, span: timedelta) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "d", "7", "-7d", "7w", "١d", "999999d", "1.5d"])
def test_not_a_span(text: str) -> None:
    with pytest.raises(InvalidInputError, match="must be days or hours"):
        parse_span(text)
