"""Steps 10 and 11: suppress, erase in every store, prove it by listing, sign the closing record, answer.

What may stay is worked out from today's manifests, whose samples are all allowed; everything else of the hit shards goes, of whatever
age. So nothing depends on remembering what was made from the deleted data.

What is gone can't be counted any more after a crash, so how many objects went is an `erased` event of the ledger as soon as they are gone
from a store, and the counts that answer and record give are the sums over all attempts. Nothing is counted twice; what a crash falls on
between the first deletion in a store and its event is not counted, so after a crash the counts say "at least".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cdm_core.composition.document import Composition
from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import VerificationError
from tasks.clock import utc_now
from tasks.data.lookup import erase_stale_indices
from tasks.data.manifest_store import load_manifest
from tasks.deletion.erasure import erase_objects, objects_to_erase
from tasks.deletion.forgetting import kept_plan
from tasks.deletion.mlflow_erasure import erase_versions
from tasks.deletion.suppression import erasure_hashes, suppress_bands, suppression_hash
from tasks.evidence.closing import describe_deletion, describe_time, measured
from tasks.files import erase_folder
from tasks.ledger.case import Case, read_served
from tasks.ledger.store import OPEN, Ledger, Status
from tasks.models.compositions import adapter_files, load_composition, saved_compositions, tainted_adapters
from tasks.models.deciding import audit_run, close_run
from tasks.models.evaluation import PictureRequest, ShardDescription, erase_descriptions_but, erase_generated_but
from tasks.models.release import champion_composition, log_record, sign_record
from tasks.paper_report.cache import erase_report
from tasks.plans.kept_files import erase_kept
from tasks.plans.planning import ForgetPlan
from tasks.requests.identities import forget_identities
from tasks.requests.notifying import describe_notifications
from tasks.training.checkpoints import CheckpointStore
from tasks.training.classifiers import erase_classifiers
from tasks.training.shard_training import plan_chain
from tasks.workspace import Workspace


@dataclass(slots=True)
class Tally:
    """Counts what goes, by store, over all attempts at a case's purge."""

    case: Case
    stores: dict[str, None] = field(default_factory=dict)

    def add(self, counts: Mapping[str, int]) -> None:
        """Record how many objects have just gone from each store."""
        self.stores |= dict.fromkeys(counts)
        erased: dict[str, Json] = {store: count for store, count in counts.items() if count}
        if erased:
            self.case.finish("erased", {"counts": erased})

    def sum(self) -> dict[str, int]:
        """How many went from each store that this attempt came by, by this attempt and by those before it."""
        totals = dict.fromkeys(self.stores, 0)
        for event in self.case.each("erased"):
            assert isinstance(event["counts"], Mapping), "we wrote it"
            for store, count in event["counts"].items():
                totals[store] = totals.get(store, 0) + int(str(count))
        return totals


def purge_request(case: Case, descriptions: Sequence[ShardDescription], pictures: list[PictureRequest]) -> dict[str, int]:
    """Suppress the plan's samples and erase them and what was made of them; returns how many objects went, by store."""
    if done := case.find("purged"):
        counts = done["counts"]
        assert isinstance(counts, Mapping), "we wrote it"
        return {store: int(str(count)) for store, count in counts.items()}
    plan, decided = kept_plan(case), case.finished("decided")
    serving = champion_composition(case.ws)
    assert serving is not None, "a decision follows a stop, which promotes"
    names = [suppression_hash(case.ws, hit.sample_id) for hit in plan.hits]
    hashes, pairs = sorted(names), erasure_hashes(case.ws, ((hit.owner_key, hit.sample_id) for hit in plan.hits))
    Ledger(case.ws).suppress([*hashes, *pairs], utc_now())
    suppress_bands(case.ws, list(zip(names, plan.perceptual_bands, strict=False)), utc_now())  # a plan of an earlier release has none
    candidate = read_served(decided)
    kept = {serving[0]: serving[1], candidate.version: load_composition(case.ws, candidate.composition)}
    tally = Tally(case)
    erase_tainted(case.ws, plan, tally, kept=kept, descriptions=descriptions, pictures=pictures)
    tally.add({"identities": forget_identities(case.ws, plan.owners)})
    counts = tally.sum()
    case.finish("purged", {"counts": counts, "suppressed": len(hashes), "suppression": sha256_digest("\n".join(hashes).encode())})
    return counts


def erase_tainted(
    ws: Workspace,
    plan: ForgetPlan,
    tally: Tally,
    *,
    kept: Mapping[int, Composition],
    descriptions: Sequence[ShardDescription],
    pictures: list[PictureRequest],
) -> None:
    """Erase in every store, and list each again.

    Args:
        ws: the workspace, from whose manifests the samples are gone.
        plan: what was to be forgotten.
        tally: told what has gone, store by store.
        kept: the serving and the candidate composition by version; both are clean.
        descriptions: today's shard descriptions.
        pictures: today's evaluation pictures.

    Raises:
        VerificationError: something that had to go is still there, or something that serves is gone.
    """
    settings, store = ws.settings(), CheckpointStore(ws.checkpoints)
    hit_shards = [shard.shard for shard in plan.shards]
    chains = {shard: plan_chain(load_manifest(ws, shard), shard, settings) for shard in hit_shards}
    clean = {shard: {store.digest(key) for key in chains[shard] if store.has(key)} for shard in hit_shards}
    tainted = tainted_adapters(ws, hit_shards, clean)
    if any(expert.adapter in tainted for composition in kept.values() for expert in composition.experts):
        raise VerificationError("purge: a composition that is to stay holds an adapter that is to go")
    clean_adapters = {adapter for adapters in clean.values() for adapter in adapters}
    erase_objects(ws, objects_to_erase(ws, plan.hit_frame(), clean_adapters=clean_adapters), on_erased=tally.add)
    tally.add(erase_versions(ws, keep_versions=set(kept), tainted=tainted))
    tally.add({"checkpoints": store.erase_shards(hit_shards, keep={key for shard in hit_shards for key in chains[shard]})})
    tally.add({"compositions": _erase_compositions(ws, tainted)})
    tally.add({"generated_pictures": erase_generated_but(ws, list(kept.values()), pictures)})
    tally.add({"grids": erase_folder(ws.cache / "grids")})
    tally.add({"reports": erase_report(ws)})
    tally.add({"classifiers": erase_classifiers(ws)})
    tally.add({"sample_indices": erase_stale_indices(ws)})
    tally.add({"shard_descriptions": erase_descriptions_but(ws, list(descriptions))})
    for composition in kept.values():
        adapter_files(ws, composition)  # raises if what stays has lost a file


def close_request(case: Case) -> dict[str, Json]:
    """Sign the closing record, show it in the run, keep the answer; then erase the request's own bytes and plan."""
    ledger = Ledger(case.ws)
    stored = ledger.request(case.request_id)
    assert stored is not None, "an open case is stored"
    if stored.answer is not None and stored.status not in OPEN:
        return dict(stored.answer)
    plan = kept_plan(case)
    stopped, decided, purged = (case.finished(step) for step in ("stopped", "decided", "purged"))
    is_promoted = decided["serving"] == decided["version"]
    status: Status = "needs_review" if not is_promoted else "held" if plan.held_samples else "completed"
    candidate = read_served(decided)
    composition = load_composition(case.ws, candidate.composition)
    content = {
        "decision": "closed",
        "status": status,
        "request_digest": stored.digest,
        **describe_deletion(case, candidate),
        **describe_time(case),
        "notifications": describe_notifications(
            case.ws, case.request_id, status, utc_now(), num_erased=len(plan.hits), is_forgotten=not plan.held_samples
        ),
        "absence": "every store was listed again after the erasure and held none of the erased objects",
    }
    record = sign_record(
        case.ws, "closing", composition, version=candidate.version, step_key=case.step_key("close"), now=utc_now(), content=content
    )
    log_record(case.ws, audit_run(case, "forget"), record)
    close_run(case, "forget")
    names = [str(stopped["record"]), str(decided["record"]), record.name]
    answer: dict[str, Json] = {
        "request_id": case.request_id,
        "status": status,
        "stop_seconds": stopped["seconds"],
        "total_seconds": (utc_now() - stored.received_at).total_seconds(),
        **measured(case),
        "stopped_version": stopped["version"],
        "model_version": decided["serving"],
        "candidate_version": candidate.version,
        "gate": decided["gate"],
        "audit_records": [str(case.ws.records / name) for name in names],
        "mlflow_run_id": decided["run_id"],
        "purged": purged["counts"],
    }
    if plan.held_samples:
        answer |= {"held_samples": plan.held_samples, "holds": list(plan.holds)}
    with ledger.together():
        ledger.append("closed", case.request_id, {"record": record.name, "held_samples": plan.held_samples}, utc_now())
        ledger.set_status(case.request_id, status, answer)
        if not plan.held_samples:  # else the request is needed once more, when the hold ends
            ledger.forget_content(case.request_id)
    erase_kept(case.ws, case.request_id)
    return answer


def _erase_compositions(ws: Workspace, tainted: set[Digest]) -> int:
    doomed = [
        digest for digest, composition in saved_compositions(ws).items() if any(expert.adapter in tainted for expert in composition.experts)
    ]
    for digest in doomed:
        (ws.compositions / f"{digest}.json").unlink()
    return len(doomed)
