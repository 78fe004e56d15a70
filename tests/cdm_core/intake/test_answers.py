"""Each sender's answer to each state, and when it may be expected."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cdm_core.errors import InvalidInputError
from cdm_core.intake.case_status import CaseStatus, HeldUntil, Outcome
from cdm_core.intake.drop import answer_drop
from cdm_core.intake.drp import answer_drp
from cdm_core.intake.fides import answer_fides
from cdm_core.intake.opendsr import answer_opendsr


def case(
    status: str,
    reason: str | None = None,
    content: bytes | None = None,
    outcomes: Mapping[str, Outcome] | None = None,
    *,
    is_closed: bool = False,
    extension: str | None = None,
) -> CaseStatus:
    return CaseStatus(
        request_id="foo",
        ledger_id="foo@1",
        issuer="sender",
        status=status,
        reason=reason,
        received_at=datetime(2026, 11, 24, 9, 0, 0, 7, tzinfo=UTC),
        expected_by=datetime(2026, 12, 25, tzinfo=UTC),
        content=content,
        outcomes=outcomes or {},
        is_closed=is_closed,
        num_erased=4 if is_closed else None,
        holds=[HeldUntil(ground="legal_claim", until=datetime(2027, 1, 1, tzinfo=UTC))] if status == "held" else [],
        extension=extension,
    )


# ours and whether it was closed, then OpenDSR's request_status, DRP's status and reason, fides' status
STATES = [
    ("received", None, False, "pending", ("in_progress", None), "pending"),
    ("planned", None, False, "in_progress", ("in_progress", None), "in_processing"),
    ("stopped", None, False, "in_progress", ("in_progress", None), "in_processing"),
    ("retraining", None, False, "in_progress", ("in_progress", None), "in_processing"),
    ("needs_review", None, False, "in_progress", ("in_progress", None), "in_processing"),
    ("needs_review", None, True, "completed", ("fulfilled", None), "complete"),
    ("rejected", None, True, "completed", ("fulfilled", None), "complete"),
    ("failed", None, False, "in_progress", ("in_progress", None), "error"),
    ("held", None, False, "in_progress", ("in_progress", None), "paused"),
    ("held", None, True, "in_progress", ("in_progress", None), "paused"),
    ("completed", None, True, "completed", ("fulfilled", None), "complete"),
    ("refused", "no_match", False, "cancelled", ("denied", "no_match"), "denied"),
    ("refused", "ambiguous_identity", False, "cancelled", ("denied", "insuf_verification"), "denied"),
    ("refused", "key_not_valid", False, "cancelled", ("denied", "suspected_fraud"), "denied"),
    ("refused", "bad_image", False, "cancelled", ("denied", "other"), "denied"),
    ("refused", "expired", False, "cancelled", ("expired", None), "denied"),
]


@pytest.mark.parametrize(("status", "reason", "is_closed", "opendsr", "drp", "fides"), STATES)
def test_states(status: str, reason: str | None, is_closed: bool, opendsr: str, drp: tuple[str, str | None], fides: str) -> None:
    given = case(status, reason, is_closed=is_closed)
    assert answer_opendsr(given)["request_status"] == opendsr
    answer = answer_drp(given)
    assert (answer["status"], answer.get("reason")) == drp
    assert answer_fides(given)["status"] == fides


def test_the_opendsr_document() -> None:
    assert answer_opendsr(case("received", content=b"{}")) == {
        "controller_id": "sender",
        "expected_completion_time": "2026-12-25T00:00:00Z",
        "received_time": "2026-11-24T09:00:00Z",
        "subject_request_id": "foo",
        "request_status": "pending",
        "api_version": "2.0",
        "encoded_request": "e30=",
    }


def test_the_opendsr_document_counts_what_was_erased() -> None:
    document = answer_opendsr(case("completed", is_closed=True))
    assert (document["results_count"], "encoded_request" in document) == (4, False)
    assert "results_count" not in answer_opendsr(case("held", is_closed=True))


def test_the_drp_object() -> None:
    assert answer_drp(case("completed")) == {
        "request_id": "foo@1",
        "agent_request_id": "foo",
        "received_at": "2026-11-24T09:00:00Z",
        "expected_by": "2026-12-25T00:00:00Z",
        "processing_details": "the data was removed from the model and erased",
        "status": "fulfilled",
    }


def test_drp_is_told_of_holds_and_extensions() -> None:
    assert answer_drp(case("held"))["processing_details"] == (
        "all of the data is exempt for now; exempt until 2027-01-01T00:00:00Z: legal claim"
    )
    details = str(answer_drp(case("held", is_closed=True, extension="many requests"))["processing_details"])
    assert details.startswith("what is not exempt was removed from the model and erased; exempt until")
    assert details.endswith("; the period was extended: many requests")


def test_what_waits_for_a_review_and_for_a_hold_is_held() -> None:
    given = replace(case("held", is_closed=True), status="needs_review")
    assert (answer_drp(given)["status"], answer_fides(given)["status"]) == ("in_progress", "paused")


def test_the_fides_document() -> None:
    assert answer_fides(case("refused", "no_match")) == {
        "id": "foo@1",
        "external_id": "foo",
        "created_at": "2026-11-24T09:00:00Z",
        "due_date": "2026-12-25T00:00:00Z",
        "status": "denied",
        "reason": "no_match",
    }


OUTCOMES: dict[str, Outcome] = {"w-4": "not_found", "w-1": "exempted", "w-3": "shared", "w-2": "matched", "w-5": "partly_held"}


@pytest.mark.parametrize("status", ["completed", "needs_review", "rejected", "held"])
def test_the_drop_upload(status: str) -> None:
    assert answer_drop(case(status, outcomes=OUTCOMES, is_closed=True)) == "ID,Status\nw-1,2\nw-2,3\nw-3,4\nw-4,5\nw-5,3\n"


def test_the_drop_upload_of_what_deleted_nothing() -> None:
    assert answer_drop(case("refused", "no_match", outcomes={"w-1": "not_found"})) == "ID,Status\nw-1,5\n"
    assert answer_drop(case("held", outcomes={"w-1": "exempted", "w-2": "shared"})) == "ID,Status\nw-1,2\nw-2,4\n"


@pytest.mark.parametrize("status", ["received", "retraining", "needs_review", "failed"])
def test_drop_has_no_status_for_what_is_open(status: str) -> None:
    with pytest.raises(InvalidInputError, match=f"still {status}"):
        answer_drop(case(status, outcomes=OUTCOMES))


@pytest.mark.parametrize("status", ["refused", "held"])
def test_drop_is_never_told_deleted_of_what_was_not(status: str) -> None:
    with pytest.raises(InvalidInputError, match="what was found was not deleted"):
        answer_drop(case(status, outcomes=OUTCOMES))
