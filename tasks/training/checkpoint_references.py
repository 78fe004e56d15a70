"""Which checkpoints are needed, by whom, and which stages of today's chains are there: what `lethe checkpoints` lists and collects.

A checkpoint is kept by

- `champion`: the version that serves;
- `composition <digest>`: another registered composition, so that a version can be promoted again;
- `case <id>`: an open case that planned to stop at it, or waits for a decision on what was made of it;
- `chain`: a stage of today's samples, settings, code and machine, which training would reuse.

Records name keys as well, and are counted, but keep nothing: a replay makes anew what a record names. Nothing here lists a sample.
"""

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdm_core.chain import num_reusable_stages
from cdm_core.digests import Digest
from cdm_core.errors import VerificationError
from cdm_core.stage_origin import explain_rebuild, explain_reuse
from tasks.data.manifest_store import load_manifest
from tasks.evidence.records import load_records
from tasks.ledger.store import Ledger
from tasks.models.compositions import saved_compositions
from tasks.models.release import champion_composition
from tasks.plans.planning import load_plan
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import plan_chain, plan_origins
from tasks.workspace import Workspace

_KEY = re.compile(r"\b[0-9a-f]{64}\b")
_CLOSED = ("completed", "refused", "rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageListing:
    """One stage of a shard's chain as its samples are today. `made` is why its checkpoint was made, when it was."""

    stage: int
    key: Digest
    present: bool
    bytes: int
    samples: int
    reason: str
    made: str | None
    references: tuple[str, ...]
    num_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardListing:
    """A shard's chain, and how many of its leading stages training would reuse."""

    shard: int
    stages_reusable: int
    chain: tuple[StageListing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherCheckpoint:
    """A checkpoint that is no stage of today's chains."""

    shard: int
    stage: int
    key: Digest
    bytes: int
    references: tuple[str, ...]
    num_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointListing:
    """The whole store; `unreferenced` is what collecting would delete."""

    shards: tuple[ShardListing, ...]
    others: tuple[OtherCheckpoint, ...]
    num_checkpoints: int
    bytes: int
    unreferenced: int
    unreferenced_bytes: int


def list_checkpoints(ws: Workspace) -> CheckpointListing:
    """Today's chains, what else the store holds, and who needs each."""
    store, references = CheckpointStore(ws.checkpoints), find_references(ws)
    num_records, entries = _count_records(ws), store.entries()
    shards = tuple(_list_shard(ws, shard, store, references, num_records) for shard in ws.settings().shard_ids)
    today = {stage.key for shard in shards for stage in shard.chain}
    others = tuple(
        OtherCheckpoint(
            shard=int(str(entry["shard"])),
            stage=int(str(entry["stage"])),
            key=key,
            bytes=store.size(key),
            references=tuple(references.get(key, ())),
            num_records=num_records[key],
        )
        for key, entry in entries.items()
        if key not in today
    )
    unreferenced = [key for key in entries if key not in references]
    return CheckpointListing(
        shards=shards,
        others=tuple(sorted(others, key=lambda other: (other.shard, other.stage, other.key))),
        num_checkpoints=len(entries),
        bytes=sum(store.size(key) for key in entries),
        unreferenced=len(unreferenced),
        unreferenced_bytes=sum(store.size(key) for key in unreferenced),
    )


def collect_checkpoints(ws: Workspace) -> tuple[int, int]:
    """Delete what nothing refers to; how many checkpoints, how many bytes. Hold the workspace's flow lock.

    Raises:
        VerificationError: the champion lacks an adapter already: what else is needed can't be known then.
    """
    references, store = find_references(ws), CheckpointStore(ws.checkpoints)
    serving, entries = champion_composition(ws), store.entries()
    kept = {entries[key]["adapter"] for key in references if key in entries and store.path(key).is_file()}
    if serving is not None and (lost := [expert.shard for expert in serving[1].experts if expert.adapter not in kept]):
        raise VerificationError(f"checkpoints: the adapter that serves for shard {lost[0]} is not in the store; nothing was collected")
    return store.collect(references)


def find_references(ws: Workspace) -> dict[Digest, list[str]]:
    """Who needs each key of the store or of today's chains; a key that nobody needs is absent."""
    settings = ws.settings()
    by_adapter: dict[str, list[Digest]] = defaultdict(list)
    for key, entry in CheckpointStore(ws.checkpoints).entries().items():
        by_adapter[str(entry["adapter"])].append(key)
    references: dict[Digest, list[str]] = defaultdict(list)

    def refer(keys: Iterable[Digest], name: str) -> None:
        for key in keys:
            if name not in references[key]:
                references[key].append(name)

    for shard in settings.shard_ids:
        refer(plan_chain(load_manifest(ws, shard), shard, settings), "chain")
    serving = champion_composition(ws)
    for digest, composition in saved_compositions(ws).items():
        name = "champion" if serving is not None and digest == serving[1].digest else f"composition {digest[:12]}"
        refer((key for expert in composition.experts for key in by_adapter[expert.adapter]), name)
    for stored in Ledger(ws).requests() if ws.ledger.is_dir() else []:
        # A case that waits for a person keeps its candidate as a composition.
        plan = load_plan(ws, stored.request_id) if stored.status not in _CLOSED else None
        refer((shard.clean_checkpoint for shard in (plan.shards if plan else ()) if shard.clean_checkpoint), f"case {stored.request_id}")
    return dict(references)


def _list_shard(
    ws: Workspace, shard: int, store: CheckpointStore, references: Mapping[Digest, Sequence[str]], num_records: Mapping[Digest, int]
) -> ShardListing:
    settings, manifest, entries = ws.settings(), load_manifest(ws, shard), store.entries()
    keys, origins = plan_chain(manifest, shard, settings), plan_origins(manifest, shard, settings)
    stages = []
    for stage, (key, origin) in enumerate(zip(keys, origins, strict=True)):
        is_present = store.has(key)
        made = entries[key].get("why") if is_present else None
        stages.append(
            StageListing(
                stage=stage,
                key=key,
                present=is_present,
                bytes=store.size(key),
                samples=origin.num_samples,
                reason=explain_reuse(origin) if is_present else explain_rebuild(origin, store.origins(shard, stage)),
                made=made if isinstance(made, str) else None,
                references=tuple(references.get(key, ())),
                num_records=num_records.get(key, 0),
            )
        )
    return ShardListing(shard=shard, stages_reusable=num_reusable_stages(keys, store.has), chain=tuple(stages))


def _count_records(ws: Workspace) -> Counter[Digest]:
    """How many records name each key; their signatures are not this listing's matter."""
    counts: Counter[Digest] = Counter()
    for content in load_records(ws):
        payload = base64.b64decode(json.loads(content)["payload"])
        counts.update({Digest(word) for word in _KEY.findall(payload.decode())})
    return counts
