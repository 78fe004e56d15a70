"""Each sender's answer to each state, and when it may be expected."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from cdm_core.errors import InvalidInputError
from cdm_core.intake.case_status import CaseStatus, Outcome, compute_expected_by
from cdm_core.intake.drop import answer_drop
from cdm_core.intake.drp import answer_drp
from cdm_core.intake.fides import answer_fides
from cdm_core.intake.opendsr import answer_opendsr


def case(status: str, reason: str | None = None, content: bytes | None = None, outcomes: Mapping[str, Outcome] | None = None) -> CaseStatus:
    received_at = datetime(2026, 11, 24, 9, 0, 0, 7, tzinfo=UTC)
    return CaseStatus(
        request_id="foo",
        ledger_id="foo@1",
        issuer="sender",
        status=status,
        reason=reason,
        received_at=received_at,
        expected_by=compute_expected_by("gdpr", received_at),
        content=content,
        outcomes=outcomes or {},
    )


# ours, then OpenDSR's request_status, DRP's status and reason, fides' status
STATES = [
    ("received", None, "pending", ("in_progress", None), "pending"),
    ("planned", None, "in_progress", ("in_progress", None), "in_processing"),
    ("retraining", None, "in_progress", ("in_progress", None), "in_processing"),
    ("needs_review", None, "in_progress", ("in_progress", None), "in_processing"),
    ("failed", None, "in_progress", ("in_progress", None), "error"),
    ("completed", None, "completed", ("fulfilled", None), "complete"),
    ("refused", "no_match", "cancelled", ("denied", "no_match"), "denied"),
    ("refused", "ambiguous_identity", "cancelled", ("denied", "insuf_verification"), "denied"),
    ("refused", "bad_image", "cancelled", ("denied", "other"), "denied"),
    ("refused", "expired", "cancelled", ("expired", None), "denied"),
]


@pytest.mark.parametrize(("status", "reason", "opendsr", "drp", "fides"), STATES)
def test_states(status: str, reason: str | None, opendsr: str, drp: tuple[str, str | None], fides: str) -> None:
    given = case(status, reason)
    assert answer_opendsr(given)["request_status"] == opendsr
    answer = answer_drp(given)
    assert (answer["status"], answer.get("reason")) == drp
    assert answer_fides(given)["status"] == fides


def test_the_opendsr_document() -> None:
    assert answer_opendsr(case("received", content=b"{}")) == {
        "controller_id": "sender",
        "expected_completion_time": "2026-12-24T09:00:00Z",
        "received_time": "2026-11-24T09:00:00Z",
        "subject_request_id": "foo",
        "request_status": "pending",
        "api_version": "2.0",
        "encoded_request": "e30=",
    }


def test_the_drp_object() -> None:
    assert answer_drp(case("completed")) == {
        "request_id": "foo@1",
        "agent_request_id": "foo",
        "received_at": "2026-11-24T09:00:00Z",
        "expected_by": "2026-12-24T09:00:00Z",
        "processing_details": "the data was removed from the model and erased",
        "status": "fulfilled",
    }


OUTCOMES: dict[str, Outcome] = {"w-4": "not_found", "w-1": "exempted", "w-3": "shared", "w-2": "matched"}


def test_the_drop_upload() -> None:
    assert answer_drop(case("completed", outcomes=OUTCOMES)) == "ID,Status\nw-1,2\nw-2,3\nw-3,4\nw-4,5\n"
    assert answer_drop(case("refused", "no_match", outcomes={"w-1": "not_found"})) == "ID,Status\nw-1,5\n"


@pytest.mark.parametrize("status", ["received", "needs_review"])
def test_drop_has_no_status_for_what_is_open(status: str) -> None:
    with pytest.raises(InvalidInputError, match=f"still {status}"):
        answer_drop(case(status, outcomes=OUTCOMES))


def test_drop_is_never_told_deleted_of_what_was_not() -> None:
    with pytest.raises(InvalidInputError, match="what was found was not deleted"):
        answer_drop(case("rejected", outcomes=OUTCOMES))


@pytest.mark.parametrize(
    ("regulation", "received", "expected"),
    [
        ("gdpr", "2026-11-24", "2026-12-24"),
        ("gdpr", "2026-12-31", "2027-01-31"),
        ("gdpr", "2027-01-31", "2027-02-28"),
        ("gdpr", "2028-01-30", "2028-02-29"),
        ("gdpr", "2026-10-31", "2026-11-30"),
        ("ccpa", "2026-11-24", "2027-01-08"),
    ],
)
def test_expected_by(regulation: str, received: str, expected: str) -> None:
    assert compute_expected_by(regulation, datetime.fromisoformat(received).replace(tzinfo=UTC)).date().isoformat() == expected
