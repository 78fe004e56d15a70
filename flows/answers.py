"""`lethe status ID --as FORMAT`: the document that a request's sender expects, and `lethe identities add`."""

from pathlib import Path
from typing import Literal, get_args

from cdm_core.errors import InvalidInputError
from tasks.clock import utc_now
from tasks.workspace import open_workspace

AnswerFormat = Literal["opendsr", "drp", "fides", "drop"]


def run_answer(directory: Path, request_id: str, form: str) -> dict[str, object] | str:
    """A JSON document, or the text of DROP's CSV."""
    from cdm_core.intake.drop import answer_drop
    from cdm_core.intake.drp import answer_drp
    from cdm_core.intake.fides import answer_fides
    from cdm_core.intake.opendsr import answer_opendsr
    from tasks.requests.answers import read_case

    if form not in get_args(AnswerFormat):
        raise InvalidInputError(f"{form}: not one of {', '.join(get_args(AnswerFormat))}")
    case = read_case(open_workspace(directory), request_id, form, utc_now())
    match form:
        case "opendsr":
            return dict(answer_opendsr(case))
        case "drp":
            return dict(answer_drp(case))
        case "fides":
            return dict(answer_fides(case))
    return answer_drop(case)


def run_add_identities(directory: Path, owner_id: str, identifiers: list[tuple[str, str]]) -> dict[str, object]:
    """Say by what an owner is known to senders; the answer names neither."""
    from tasks.requests.identities import add_identities

    return {"added": add_identities(open_workspace(directory), owner_id, identifiers), "given": len(identifiers)}
