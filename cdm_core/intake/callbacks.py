"""What a sender is told: the answer in its own form, and the document that goes to a callback address, where its form has one.

A callback's document holds states and the sender's own numbers: never the request's bytes, which an OpenDSR answer may have inside.
"""

from dataclasses import replace

from cdm_core.digests import Json, canonical_json
from cdm_core.intake.case_status import CaseStatus
from cdm_core.intake.detection import Format
from cdm_core.intake.drop import answer_drop
from cdm_core.intake.drp import answer_drp
from cdm_core.intake.fides import answer_fides
from cdm_core.intake.opendsr import answer_opendsr

MAX_CALLBACKS = 5
"""Addresses of one request that are told; the rest are passed over."""


def build_answer(case: CaseStatus, form: Format) -> bytes:
    """What `lethe status ID --as FORM` gives, as canonical bytes; for the forms without an answer of their own, id and status."""
    match form:
        case "opendsr":
            return canonical_json(answer_opendsr(case))
        case "drp":
            return canonical_json(answer_drp(case))
        case "fides":
            return canonical_json(answer_fides(case))
        case "drop":
            return answer_drop(case).encode()
        case "own" | "iab":
            return canonical_json({"request_id": case.ledger_id, "status": case.status})


def build_callback(case: CaseStatus, form: Format, url: str) -> bytes | None:
    """The body of a callback; None for forms that know none."""
    if form == "drp":
        return canonical_json(answer_drp(case))
    if form != "opendsr":
        return None
    answer = answer_opendsr(replace(case, content=None))
    told = ("controller_id", "expected_completion_time", "subject_request_id", "request_status", "api_version")
    document: dict[str, Json] = {name: answer[name] for name in told}
    return canonical_json(document | {"status_callback_url": url})
