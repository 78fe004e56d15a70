"""What an audit record holds: every record answers the same questions, or says why it doesn't.

`complete_predicate` gives each field that a step left out an explicit null, and `not_stated` the reason. The shape is a JSON Schema,
`schemas/audit-record.schema.json`, for whoever reads records with other tools; `check_statement` is run on each record before it's signed.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cdm_core.digests import Json

SCHEMA_PATH = Path(__file__).parents[1] / "schemas" / "audit-record.schema.json"

_OF_REQUEST = "this step answers no deletion request, or the record of another step of the request says it"
_OF_OTHER_STEP = "the record of another step says it"
REASONS: Mapping[str, str] = {
    "kind": "the step didn't name its kind",
    "signed_at": "the step didn't state its time; the ledger's event of this record has one",
    "decision": "the step decides nothing",
    "request_digest": _OF_REQUEST,
    "request_format": _OF_REQUEST,
    "issuer_key": _OF_REQUEST,
    "identity": _OF_REQUEST,
    "regulation": _OF_REQUEST,
    "clock": "no deadline was recorded for this step",
    "extension": "no extension was recorded",
    "approvers": "no approval beyond the issuer's signature was recorded",
    "exemption": "no exemption was recorded",
    "suppression_commitment": "nothing was suppressed in this step",
    "affected_shards": _OF_REQUEST,
    "dvc_revision_before": _OF_OTHER_STEP,
    "dvc_revision_after": _OF_OTHER_STEP,
    "manifests_before": _OF_OTHER_STEP,
    "manifests_after": _OF_OTHER_STEP,
    "clean_checkpoints": "the step goes back to no checkpoint",
    "why_clean": "the step goes back to no checkpoint",
    "code": "the step ran no training code",
    "environment": "the step ran no training code",
    "seed": "the step drew no random numbers",
    "hardware": "the step ran no training code",
    "adapters": _OF_OTHER_STEP,
    "adapters_replaced": "the step replaced no adapter",
    "untouched_shards": "the step replaced no adapter",
    "frechet_distance": "not measured in this step",
    "nearest_neighbours": "not measured in this step",
    "membership_inference": "not measured in this step",
    "purged": "nothing was erased in this step",
    "kept": "nothing was erased in this step",
    "notifications": "nobody was notified in this step, or the closing record of each request says it",
    "promotion": "the step promotes nothing",
    "ledger": "the ledger's state wasn't at hand",
}


def complete_predicate(predicate: Mapping[str, Json]) -> dict[str, Json]:
    """The predicate with a null for every field that it lacks, and the reason of each null; a reason that was given is kept."""
    given = predicate.get("not_stated")
    reasons = dict(given) if isinstance(given, Mapping) else {}
    for name, reason in REASONS.items():
        if predicate.get(name) is None:
            reasons.setdefault(name, reason)
    return {**dict.fromkeys(REASONS), **predicate, "not_stated": reasons}


@cache
def load_schema() -> Mapping[str, Any]:
    """The JSON Schema of a record's Statement."""
    schema: Mapping[str, Any] = json.loads(SCHEMA_PATH.read_bytes())
    return schema


def check_statement(payload: bytes) -> None:
    """Check a Statement against the schema.

    Raises:
        ValueError: it doesn't fit; where it's our own, that is a bug.
    """
    from jsonschema import Draft202012Validator  # costs a tenth of a second that `lethe verify` needn't wait for

    for error in Draft202012Validator(load_schema()).iter_errors(json.loads(payload)):
        where = "/".join(str(part) for part in error.absolute_path) or "statement"
        raise ValueError(f"a record doesn't fit its schema: {where}: {error.message:.300}")
