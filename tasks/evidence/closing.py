"""What a closing record says: all that an audit asks of one deletion, in one place.

Some of it was found out by the decision and stands in that record; it's said again here, so that nobody has to put an answer together from
three records. The adapters that were left alone are hashed once more from their files: byte for byte those that served before.
"""

from collections.abc import Mapping

from cdm_core.composition.document import Composition
from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import VerificationError
from tasks.clock import utc_now
from tasks.evidence.records import read_predicate
from tasks.ledger.case import Case, Served
from tasks.memory import peak_memory_megabytes
from tasks.models.compositions import adapter_files, load_composition
from tasks.requests.due import describe_clock
from tasks.workspace import Workspace

_OF_THE_DECISION = (
    "request_format",
    "issuer_key",
    "identity",
    "regulation",
    "approvers",
    "exemption",
    "affected_shards",
    "dvc_revision_before",
    "dvc_revision_after",
    "manifests_before",
    "manifests_after",
    "clean_checkpoints",
    "why_clean",
    "adapters",
    "adapters_replaced",
    "untouched_shards",
    "frechet_distance",
    "nearest_neighbours",
    "membership_inference",
    "promotion",
)


def describe_deletion(case: Case, candidate: Served) -> dict[str, Json]:
    """What the closing record of a case says, and those of its requests where it's a batch."""
    decided, purged = case.finished("decided"), case.finished("purged")
    said = read_predicate(case.ws, str(decided["record"]))
    return {
        **{name: said[name] for name in _OF_THE_DECISION if said.get(name) is not None},
        "untouched_adapters": _hash_untouched(case.ws, load_composition(case.ws, candidate.composition), said["untouched_shards"]),
        "kept": _describe_kept(candidate.version, decided["serving"], said),
        "purged": purged["counts"],
        "suppressed_samples": purged["suppressed"],
        "suppression_commitment": purged["suppression"],
        "not_stated": _reasons(said),
    }


def _reasons(said: Mapping[str, Json]) -> dict[str, Json]:
    """Why the decision left something open; what it left to another step is of no use here."""
    given = said.get("not_stated")
    reasons: dict[str, Json] = {name: why for name, why in given.items() if name in _OF_THE_DECISION} if isinstance(given, Mapping) else {}
    return reasons | ({"promotion": "nothing was promoted: a person decides"} if said.get("promotion") is None else {})


def measured(case: Case) -> dict[str, Json]:
    """What retraining took, in seconds summed over the shards (they train in parallel), what evaluation took, and the most memory."""
    retrained, decided = case.find("retrained") or {}, case.find("decided") or {}
    return {
        "training_seconds": retrained.get("seconds"),
        "evaluation_seconds": decided.get("evaluation_seconds"),
        "peak_memory_mb": peak_memory_megabytes(),
    }


def describe_time(case: Case) -> dict[str, Json]:
    """Clock and extension of the request itself."""
    return describe_clock(case.ws, case.request_id, utc_now())


def _hash_untouched(ws: Workspace, composition: Composition, shards: Json) -> dict[str, Json]:
    """The digests of the adapters that were left alone, from their files.

    Raises:
        VerificationError: one isn't the adapter that the composition names.
    """
    assert isinstance(shards, list | tuple), "a decision's record lists them"
    digests: dict[str, Json] = {}
    for shard, path in adapter_files(ws, composition.restricted_to([int(str(shard)) for shard in shards])).items():
        digest = sha256_digest(path.read_bytes())
        if digest != _adapter_of(composition, shard):
            raise VerificationError(f"{path}: is not the adapter of shard {shard} that serves")
        digests[str(shard)] = digest
    return digests


def _adapter_of(composition: Composition, shard: int) -> Digest:
    return next(expert.adapter for expert in composition.experts if expert.shard == shard)


def _describe_kept(candidate: int, serving: Json, said: Mapping[str, Json]) -> list[Json]:
    """What holds a trace of the request and wasn't erased, and why."""
    kept: list[Json] = [
        {"what": f"model version {version}", "why": "composed of adapters that never saw the data"}
        for version in sorted({candidate, int(str(serving))})
    ]
    clean, exemption = said.get("clean_checkpoints"), said.get("exemption")
    if isinstance(clean, Mapping):
        kept += [
            {"what": f"checkpoint {key} of shard {shard}", "why": "made before the data was seen"} for shard, key in clean.items() if key
        ]
    if isinstance(exemption, Mapping):
        kept.append({"what": f"{exemption['held_samples']} samples that are held", "why": "a hold keeps them from erasure until it ends"})
    return [
        *kept,
        {"what": "signed records and ledger events", "why": "evidence of the erasure; they hold digests, keyed hashes and counts"},
        {"what": "keyed hashes of the erased samples", "why": "so that the data is refused when it is offered again"},
    ]
