"""The plan of a deletion: what will be retrained, reused and erased, worked out before anything changes.

A plan names owner keys and sample ids, so it lies in a file of its own that is erased when the request is closed; the ledger keeps its
digest and the counts. A flow that was cut short reads its plan again: the manifests may have changed since.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from cdm_core.chain import first_changed_stage
from cdm_core.digests import Digest, Json, canonical_json, json_digest, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.requests import DeletionRequest
from cdm_core.sharding.manifests import drop_samples
from cdm_core.sharding.partition import OwnerKey, compute_owner_key
from cdm_core.training import num_steps
from tasks.clock import utc_now
from tasks.data.lookup import count_by_stage, look_up
from tasks.data.manifest_store import load_manifest
from tasks.data.pictures import normalise_picture
from tasks.data.samples import pack_name
from tasks.deletion.suppression import perceptual_bands
from tasks.files import write_atomically
from tasks.keys import owner_secret
from tasks.plans.duplicates import chosen_duplicates, hash_samples
from tasks.plans.kept_files import plan_file
from tasks.requests.holds import Hold, active_holds, describe_hold, find_held
from tasks.requests.identities import resolve_identifiers
from tasks.requests.request_images import describe_image, find_image_files
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import plan_chain, stage_steps
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """One hit shard. Stages count from 0; `clean_checkpoint` is the key after the first `clean_stages` stages, which stay as they are."""

    shard: int
    samples: int
    samples_left: int
    first_tainted_stage: int
    steps: int
    steps_reused: int
    clean_stages: int
    clean_checkpoint: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A sample to be erased."""

    sample_id: str
    owner_key: str
    shard: int
    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPlan:
    """What forgetting will do; `duplicates_elsewhere` are the same pictures under owners whom the request doesn't name.

    `perceptual_bands` stand beside the hits, keyed: the pictures are gone when the suppression list takes them.
    """

    request_id: str
    request_digest: Digest
    issuer_key: str
    regulation: str
    owners: tuple[str, ...]
    shards: tuple[ShardPlan, ...]
    hits: tuple[Hit, ...]
    steps: int
    steps_full_build: int
    duplicates_elsewhere: tuple[Hit, ...]
    duplicates_included: int = 0
    perceptual_bands: tuple[tuple[str, ...], ...] = ()
    held_samples: int = 0
    holds: tuple[Mapping[str, Json], ...] = ()

    @property
    def digest(self) -> Digest:
        """Names the plan in the ledger."""
        return json_digest(asdict(self))

    def hit_frame(self) -> pd.DataFrame:
        """The hits as rows with the manifests' column names."""
        rows = [asdict(hit) | {"pack": pack_name(OwnerKey(hit.owner_key))} for hit in self.hits]
        return pd.DataFrame(rows, columns=["sample_id", "owner_key", "shard", "stage", "pack"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The samples that one request names, as rows with the manifests' column names: what goes, and what is held and by which holds."""

    hits: pd.DataFrame
    held: pd.DataFrame
    holds: tuple[Hold, ...]
    num_included: int


def build_plan(
    ws: Workspace,
    request: DeletionRequest,
    request_digest: Digest,
    issuer_key: str,
    request_folder: Path,
    *,
    choice: str | tuple[str, ...] = "none",
    was_kept: bool = False,
) -> ForgetPlan:
    """Resolve a request against the manifests and work out its cost; changes nothing.

    Raises:
        RequestRefusedError: nothing that it names is in this workspace (`no_match`).
        InvalidInputError: a chosen duplicate isn't one.
    """
    return plan_deletion(
        ws,
        request_id=request.request_id,
        request_digest=request_digest,
        issuer_key=issuer_key,
        regulation=request.regulation,
        resolved=[resolve_request(ws, request, request_folder, choice, was_kept=was_kept)],
    )


def resolve_request(
    ws: Workspace, request: DeletionRequest, request_folder: Path, choice: str | tuple[str, ...] = "none", *, was_kept: bool = False
) -> Resolved:
    """Look up what a request names, with the duplicates that were chosen; `was_kept` as in `chosen_duplicates`.

    Raises:
        RequestRefusedError: nothing that it names is in this workspace (`no_match`).
        InvalidInputError: a chosen duplicate isn't one.
    """
    owner_keys = {compute_owner_key(owner_secret(ws), owner_id) for owner_id in request.owner_ids}
    owner_keys |= resolve_identifiers(ws, request)
    sample_ids = set(request.sample_ids) | _image_sample_ids(request, request_folder)
    hits = look_up(ws, owner_keys=owner_keys, sample_ids=sample_ids)
    if hits.empty:
        raise RequestRefusedError(f"request {request.request_id}: no such owner or sample in this workspace", reason="no_match")
    included = chosen_duplicates(ws, hits, choice, was_kept=was_kept)
    hits = _union([hits, included])
    held, holds = find_held(hits, active_holds(ws, utc_now()))
    return Resolved(hits=drop_samples(hits, held), held=held, holds=tuple(holds), num_included=len(included))


def plan_deletion(
    ws: Workspace, *, request_id: str, request_digest: Digest, issuer_key: str, regulation: str, resolved: Sequence[Resolved]
) -> ForgetPlan:
    """The plan of erasing all that was resolved, in one go; changes nothing."""
    settings = ws.settings()
    hits = _union([each.hits for each in resolved])
    elsewhere = drop_samples(look_up(ws, sample_ids=set(hits["sample_id"])), hits)
    hit_shards = sorted(int(shard) for shard in hits["shard"].unique())
    shards = tuple(_plan_shard(ws, shard, load_manifest(ws, shard), hits[hits["shard"] == shard]) for shard in hit_shards)
    untouched = [shard for shard in settings.shard_ids if shard not in hit_shards]
    return ForgetPlan(
        request_id=request_id,
        request_digest=request_digest,
        issuer_key=issuer_key,
        regulation=regulation,
        owners=tuple(sorted(hits["owner_key"].unique())),
        shards=shards,
        hits=_to_hits(hits),
        steps=sum(shard.steps for shard in shards),
        steps_full_build=sum(shard.steps + shard.steps_reused for shard in shards)
        + sum(
            num_steps(count, settings.training, stage)
            for shard in untouched
            for stage, count in enumerate(count_by_stage(ws, shard, settings.stages))
        ),
        duplicates_elsewhere=_to_hits(elsewhere),
        duplicates_included=sum(each.num_included for each in resolved),
        perceptual_bands=tuple(perceptual_bands(ws, value) for value in hash_samples(ws, hits)),
        held_samples=sum(len(each.held) for each in resolved),
        holds=tuple(describe_hold(hold) for each in resolved for hold in each.holds),
    )


def save_plan(ws: Workspace, plan: ForgetPlan) -> Path:
    """Keep the plan until the request is closed."""
    path = plan_file(ws, plan.request_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, canonical_json(asdict(plan)), mode=0o600)
    return path


def load_plan(ws: Workspace, request_id: str) -> ForgetPlan | None:
    """The kept plan of a request."""
    path = plan_file(ws, request_id)
    if not path.is_file():
        return None
    document = json.loads(path.read_bytes())
    shards = tuple(ShardPlan(**shard) for shard in document.pop("shards"))
    hits = tuple(Hit(**hit) for hit in document.pop("hits"))
    elsewhere = tuple(Hit(**hit) for hit in document.pop("duplicates_elsewhere"))
    named = {
        "owners": tuple(document["owners"]),
        "holds": tuple(document.get("holds", ())),
        "perceptual_bands": tuple(tuple(entry) for entry in document["perceptual_bands"]),
    }
    return ForgetPlan(**document | named, shards=shards, hits=hits, duplicates_elsewhere=elsewhere)


def summarise_plan(plan: ForgetPlan) -> dict[str, Json]:
    """What `lethe plan` prints and records keep: counts and shards, no sample."""
    return {
        "request_id": plan.request_id,
        "request_digest": plan.request_digest,
        "plan_digest": plan.digest,
        "owners": list(plan.owners),
        "samples": len(plan.hits),
        "shards": [_shard_summary(shard) for shard in plan.shards],
        "steps": plan.steps,
        "steps_full_build": plan.steps_full_build,
        "duplicates_elsewhere": len(plan.duplicates_elsewhere),
        "duplicates_included": plan.duplicates_included,
        "held_samples": plan.held_samples,
        "holds": list(plan.holds),
    }


def _shard_summary(shard: ShardPlan) -> Mapping[str, Json]:
    return {name: value for name, value in asdict(shard).items() if name != "clean_checkpoint"}


def _plan_shard(ws: Workspace, shard: int, manifest: pd.DataFrame, hits: pd.DataFrame) -> ShardPlan:
    settings, store = ws.settings(), CheckpointStore(ws.checkpoints)
    remaining = drop_samples(manifest, hits)
    chain = plan_chain(remaining, shard, settings)
    first_tainted = first_changed_stage(plan_chain(manifest, shard, settings), chain)
    assert first_tainted is not None, "a hit shard's chain changes"
    steps = stage_steps(remaining, settings)
    reused = next((stage for stage in range(first_tainted, 0, -1) if store.has(chain[stage - 1])), 0)
    return ShardPlan(
        shard=shard,
        samples=len(hits),
        samples_left=len(remaining),
        first_tainted_stage=first_tainted,
        steps=sum(steps[reused:]),
        steps_reused=sum(steps[:reused]),
        clean_stages=reused,
        clean_checkpoint=chain[reused - 1] if reused else None,
    )


def _union(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all frames, each sample of an owner once, in the order of shards, stages, owners and samples."""
    rows = pd.concat(frames, ignore_index=True).drop_duplicates(["owner_key", "sample_id"])
    return rows.sort_values(["shard", "stage", "owner_key", "sample_id"], ignore_index=True)


def _image_sample_ids(request: DeletionRequest, folder: Path) -> set[str]:
    """A picture matches as it is stored, or as it would be stored after ingest's normalisation."""
    found: set[str] = set()
    for name, content in find_image_files(request, folder).items():
        try:
            found |= {sha256_digest(content), sha256_digest(normalise_picture(content, describe_image(request, name)))}
        except InvalidInputError as error:
            raise RequestRefusedError(f"request {request.request_id}: {error}", reason="bad_image") from error
    return found


def _to_hits(rows: pd.DataFrame) -> tuple[Hit, ...]:
    columns = (rows[name].tolist() for name in ("sample_id", "owner_key", "shard", "stage"))
    return tuple(
        Hit(sample_id=sample_id, owner_key=owner_key, shard=int(shard), stage=int(stage))
        for sample_id, owner_key, shard, stage in zip(*columns, strict=True)
    )
