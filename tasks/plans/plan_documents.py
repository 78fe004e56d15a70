"""The plan document: what carrying a request file out would do, what it costs, and the state of the workspace that this holds for.

It names owners by their keys and samples by their ids, and no person. What is in `workspace` and `requests` is worked out again before a
plan is carried out; a part that differs is the drift, and is named.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import median

from cdm_core.digests import Digest, Json, canonical_json, json_digest, sha256_digest
from cdm_core.documents import decode_text, load_json
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError, VerificationError
from cdm_core.intake.reception import parse_any
from cdm_core.intake.requests import DeletionRequest
from tasks.data.data_versions import data_revision
from tasks.data.manifest_store import load_manifests
from tasks.ledger.store import Ledger
from tasks.models.release import champion_composition
from tasks.plans.planning import ForgetPlan, Resolved, plan_deletion, resolve_request, summarise_plan
from tasks.training.checkpoints import CheckpointStore
from tasks.workspace import Workspace

PLAN_SCHEMA = "lethe/plan/v1"
_MAX_PLAN_BYTES = 100_000_000

Document = Mapping[str, Json]
Choice = str | tuple[str, ...]


def build_plan_document(ws: Workspace, content: bytes, name: str, folder: Path, now: datetime, choice: Choice = "none") -> dict[str, Json]:
    """The plan of a request file; changes nothing.

    Of several requests each has its plan, or the reason for which it will be refused, and `together` says what all of them cost, since they
    are carried out as one.

    Raises:
        RequestRefusedError: it isn't a request, or names nothing that is here.
        StateError: nothing has been built.
    """
    digest = sha256_digest(content)
    requests, _ = parse_any(content, name, None, business=ws.settings().intake.business)
    resolved = [_resolve(ws, request, folder, choice, alone=len(requests) == 1) for request in requests]
    going = [(request, found) for request, found in zip(requests, resolved, strict=True) if isinstance(found, Resolved)]
    if not going:
        raise RequestRefusedError(f"{name}: none of its {len(requests)} requests names anything in this workspace", reason="no_match")
    plans = {request.request_id: _plan(ws, request, digest, [found]) for request, found in going}
    described = [
        _describe_plan(ws, plans[request.request_id]) if isinstance(found, Resolved) else _describe_refused(request, found)
        for request, found in zip(requests, resolved, strict=True)
    ]
    document: dict[str, Json] = {
        "schema": PLAN_SCHEMA,
        "created_at": now.isoformat(),
        "request_digest": digest,
        "requests": described,
        "expected_quality_change": _expect_change(ws),
        "workspace": _describe_workspace(ws, list(plans.values())),
    }
    if len(requests) > 1:
        document["together"] = _describe_together(_plan(ws, going[0][0], digest, [found for _, found in going]))
    return document


def encode_plan_document(document: Document) -> bytes:
    """The plan file's bytes."""
    return canonical_json(document) + b"\n"


def parse_plan_document(content: bytes, source: str) -> Document:
    """A plan file's content, which must be the bytes that were written.

    Raises:
        VerificationError: it isn't a plan document, or was changed.
    """
    try:
        document = load_json(decode_text(content[:_MAX_PLAN_BYTES]))
        if not isinstance(document, Mapping) or document.get("schema") != PLAN_SCHEMA:
            raise VerificationError(f"{source}: not a plan of the schema {PLAN_SCHEMA}")
        if encode_plan_document(document) != content:
            raise VerificationError(f"{source}: not the bytes that lethe plan wrote")
        datetime.fromisoformat(str(document["created_at"]))
    except (InvalidInputError, ValueError, KeyError) as error:
        raise VerificationError(f"{source}: not a plan: {error}") from error
    return document


def require_no_drift(ws: Workspace, document: Document, content: bytes, name: str, folder: Path, choice: Choice = "none") -> None:
    """Return if the request file and the workspace are what the plan was made for.

    Raises:
        StateError: names what differs.
    """
    if document.get("request_digest") != sha256_digest(content):
        raise StateError("the plan is of another request file")
    present = build_plan_document(ws, content, name, folder, datetime.fromisoformat(str(document["created_at"])), choice)
    present = json.loads(canonical_json(present))
    if drift := find_drift(document, present):
        raise StateError(f"the workspace has drifted from the plan: {', '.join(drift)}; plan and approve again")


def find_drift(planned: Document, present: Document) -> list[str]:
    """What differs between two plan documents of one request file, in words."""
    before, after = planned.get("workspace"), present.get("workspace")
    before, after = (before if isinstance(before, Mapping) else {}), (after if isinstance(after, Mapping) else {})
    drift = [name.replace("_", " ") for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    others = {*planned, *present} - {"workspace"}
    return drift + [name.replace("_", " ") for name in sorted(others) if planned.get(name) != present.get(name)]


def _resolve(ws: Workspace, request: DeletionRequest, folder: Path, choice: Choice, *, alone: bool) -> Resolved | RequestRefusedError:
    """What a request names; of one among several, why it will be refused."""
    try:
        return resolve_request(ws, request, folder, choice)
    except RequestRefusedError as error:
        if alone:
            raise
        return error


def _plan(ws: Workspace, request: DeletionRequest, digest: Digest, resolved: Sequence[Resolved]) -> ForgetPlan:
    return plan_deletion(
        ws, request_id=request.request_id, request_digest=digest, issuer_key="", regulation=request.regulation, resolved=resolved
    )


def _describe_refused(request: DeletionRequest, error: RequestRefusedError) -> dict[str, Json]:
    return {"request_id": request.request_id, "status": "refused", "reason": error.reason}


def _describe_together(plan: ForgetPlan) -> dict[str, Json]:
    cost: dict[str, Json] = {"steps": plan.steps, "steps_full_build": plan.steps_full_build, "shards": len(plan.shards)}
    return {"samples": len(plan.hits), "held_samples": plan.held_samples, "cost": cost}


def _describe_plan(ws: Workspace, plan: ForgetPlan) -> dict[str, Json]:
    return {
        **summarise_plan(plan),
        "regulation": plan.regulation,
        "hits": [asdict(hit) for hit in plan.hits],
        "cost": {"steps": plan.steps, "steps_full_build": plan.steps_full_build, "shards": len(plan.shards)},
        "erasures": _expect_erasures(ws, plan),
    }


def _expect_erasures(ws: Workspace, plan: ForgetPlan) -> dict[str, Json]:
    """By store, as far as it's known before: what retraining makes anew isn't erased, and generated pictures are caches."""
    manifests, hit_shards = load_manifests(ws), {shard.shard for shard in plan.shards}
    whole = sum(
        len(manifests[shard][manifests[shard]["owner_key"] == owner])
        == sum(hit.owner_key == owner and hit.shard == shard for hit in plan.hits)
        for shard, owner in {(hit.shard, hit.owner_key) for hit in plan.hits}
    )
    tainted = {shard.shard: shard.first_tainted_stage for shard in plan.shards}
    entries = CheckpointStore(ws.checkpoints).entries().values()
    doomed = sum(int(str(entry["stage"])) >= tainted[int(str(entry["shard"]))] for entry in entries if entry["shard"] in hit_shards)
    packs = len({(hit.shard, hit.owner_key) for hit in plan.hits})
    return {"samples": len(plan.hits), "packs_removed": whole, "packs_rewritten": packs - whole, "checkpoints_at_least": doomed}


def _expect_change(ws: Workspace) -> dict[str, Json]:
    """The median of what earlier deletions measured here; nothing is foretold where nothing was measured."""
    changes = []
    for event in Ledger(ws).events(kind="decided"):
        gate = event.body.get("gate")
        if event.body.get("kind") == "forget" and isinstance(gate, Mapping) and float(str(gate["fd_before"])) > 0:
            changes.append(float(str(gate["change"])) / float(str(gate["fd_before"])))
    reason = f"median relative change of the Fréchet distance over {len(changes)} earlier deletions" if changes else None
    return {
        "relative_change": median(changes) if changes else None,
        "tolerated_relative_rise": ws.settings().evaluation.margin,
        "reason": reason or "not known before retraining: no deletion was measured in this workspace yet; the gate measures it",
    }


def _describe_workspace(ws: Workspace, plans: list[ForgetPlan]) -> dict[str, Json]:
    serving = champion_composition(ws)
    if serving is None:
        raise StateError("there is no model to forget from; run: lethe build")
    store = CheckpointStore(ws.checkpoints)
    keys = {shard.clean_checkpoint for plan in plans for shard in plan.shards if shard.clean_checkpoint is not None}
    checkpoints: dict[str, Digest | None] = {key: store.digest(key) if store.has(key) else None for key in sorted(keys)}
    return {
        "data_revision": data_revision(ws),
        "manifests": {str(shard): sha256_digest(ws.manifest(shard).read_bytes()) for shard in ws.settings().shard_ids},
        "champion": {"version": serving[0], "composition": serving[1].digest},
        "checkpoints": checkpoints,
        "settings": json_digest(ws.settings().model_dump()),
    }
