"""Clocks: until when a request must be answered, from when it was received, under its regulation.

Read as Regulation (EEC, Euratom) 1182/71, article 3, counts periods: the day of receipt isn't counted; a period of months ends with the
last hour of the day that bears the same number, or of the month's last day where there is none; a period of days ends with the last hour of
its last day. Civil Code § 10 of California counts days the same way. "Day" is the calendar day in the controller's own zone, `zone`: a
request of 23:30 UTC on 31 January is one of 1 February in Berlin.

- `gdpr`: one month (article 12(3)); with an extension, three months from receipt.
- `ccpa`: 45 days (Civil Code § 1798.130(a)(2)); with an extension, 90.
- `contract`, `voluntary`: the days that `params.yaml` gives.

Left out on purpose: a last day that is a Saturday, a Sunday or a holiday could be moved to the next working day (article 3(4)). Holidays
differ from place to place, and the earlier day is always in time.

A due time is the first moment that is too late: midnight at the end of the last day.
"""

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from cdm_core.errors import InvalidInputError
from cdm_core.intake.requests import Regulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Days of the periods that no law sets; an extension of 0 days means that there is none."""

    contract_days: int = 30
    contract_extension_days: int = 0
    voluntary_days: int = 90
    voluntary_extension_days: int = 90

    def __post_init__(self) -> None:
        if min(self.contract_days, self.voluntary_days) < 1 or min(self.contract_extension_days, self.voluntary_extension_days) < 0:
            raise ValueError("terms count days: at least 1 for a period, at least 0 for an extension")


def add_months(day: date, months: int) -> date:
    """The day of the same number so many months later, or that month's last."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def compute_due(regulation: Regulation, received_at: datetime, *, terms: Terms, zone: tzinfo, extended: bool = False) -> datetime:
    """The first moment that is too late, in UTC.

    Raises:
        ValueError: `received_at` has no zone.
    """
    if received_at.tzinfo is None:
        raise ValueError("a time of receipt needs a time zone")
    first = received_at.astimezone(zone).date()
    match regulation:
        case "gdpr":
            last = add_months(first, 3 if extended else 1)
        case "ccpa":
            last = first + timedelta(days=90 if extended else 45)
        case "contract":
            last = first + timedelta(days=terms.contract_days + extended * terms.contract_extension_days)
        case "voluntary":
            last = first + timedelta(days=terms.voluntary_days + extended * terms.voluntary_extension_days)
    return datetime.combine(last + timedelta(days=1), time(), zone).astimezone(UTC)


def check_extension(regulation: Regulation, received_at: datetime, now: datetime, *, terms: Terms, zone: tzinfo) -> datetime:
    """The due time that an extension given `now` leads to.

    Raises:
        InvalidInputError: the regulation knows no extension, or its first period is over.
    """
    first_due = compute_due(regulation, received_at, terms=terms, zone=zone)
    extended_due = compute_due(regulation, received_at, terms=terms, zone=zone, extended=True)
    if extended_due == first_due:
        raise InvalidInputError(f"{regulation}: params.yaml gives this term no extension")
    if now >= first_due:
        raise InvalidInputError(f"the first period ended at {first_due.isoformat()}; an extension is given before that")
    return extended_due


def parse_span(text: str) -> timedelta:
    """A span such as 7d or 36h.

    Raises:
        InvalidInputError: it is none.
    """
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and unit in ("d", "h")):
        raise InvalidInputError(f"{text!r:.40}: must be days or hours, such as 7d or 36h")
    return timedelta(days=int(number)) if unit == "d" else timedelta(hours=int(number))
