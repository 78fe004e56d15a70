"""Releasing a composition: a signed record, logged to MLflow, a registered version, and only then the alias.

Each function may be called again after a crash and finds what it made by its step key.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cdm_core.composition.document import Composition
from cdm_core.composition.mixing import draw_expert
from cdm_core.digests import Json, sha256_digest
from cdm_core.evaluation.picture_grid import build_grid
from cdm_core.evaluation.quality_gate import GateResult
from tasks.evidence.audit_log import FRECHET_DISTANCE, AuditSummary, Picture, build_note, log_audit, log_distance_chart
from tasks.evidence.hardware import describe_hardware
from tasks.evidence.records import append_records
from tasks.evidence.traces import NO_TRACES, Traces
from tasks.files import write_atomically
from tasks.ledger.store import Ledger
from tasks.models.compositions import adapter_files, centroid_files, load_composition, save_composition
from tasks.models.evaluation import PictureRequest, load_generated
from tasks.models.model_registry import Purpose, champion, register_composition
from tasks.models.promotion import promote
from tasks.models.tracking import client
from tasks.training.fingerprints import measure_own_fingerprint
from tasks.workspace import Workspace

_GRID_COLUMNS = 8
_GRID_PICTURES = 32
_GRID_SCALE = 3


def register(ws: Workspace, composition: Composition, *, run_id: str, purpose: Purpose, step_key: str) -> int:
    """Register the composition with its files as a model version; returns the version."""
    save_composition(ws, composition)
    files = adapter_files(ws, composition)
    centroids = centroid_files(ws, composition)
    is_complete = len(centroids) == len(composition.experts)
    return register_composition(
        ws,
        composition=composition.to_bytes(),
        adapters=files,
        centroids=centroids if is_complete else None,
        run_id=run_id,
        purpose=purpose,
        step_key=step_key,
    )


def sign_record(
    ws: Workspace, kind: str, composition: Composition, *, version: int, step_key: str, now: datetime, content: Mapping[str, Json]
) -> Path:
    """Append a signed record whose subject is the composed model; it names code, libraries and hardware too."""
    return sign_records(ws, kind, composition, version=version, now=now, contents={step_key: content})[0]


def sign_records(
    ws: Workspace, kind: str, composition: Composition, *, version: int, now: datetime, contents: Mapping[str, Mapping[str, Json]]
) -> list[Path]:
    """Append such records by their step keys."""
    fingerprint = measure_own_fingerprint()
    common: dict[str, Json] = {
        "kind": kind,
        "signed_at": now.isoformat(),
        "model_version": version,
        "composition": composition.digest,
        "fingerprint": asdict(fingerprint),
        "code": fingerprint.code,
        "environment": fingerprint.digest,
        "hardware": describe_hardware(fingerprint.instruction_set),
        "seed": {"evaluation": ws.settings().evaluation.seed, "training": "derived from shard, stage, epoch and sample id"},
    }
    predicates = [{**common, "step_key": step_key, **content} for step_key, content in contents.items()]
    return append_records(ws, kind, {f"composed-model@{version}": composition.digest}, predicates)


def log_release(
    ws: Workspace,
    run_id: str,
    summary: AuditSummary,
    gate: GateResult,
    grids: Mapping[str, Picture],
    records: Sequence[Path],
    traces: Traces = NO_TRACES,
) -> None:
    """Show a release in its MLflow run: note, tags, figures before and after, grids, the distance over versions, the records."""
    log_audit(
        ws,
        run_id,
        note=build_note(summary),
        model_version=summary.model_version,
        tags={"verdict": summary.verdict, "kind": summary.kind},
        metrics_before={FRECHET_DISTANCE: gate.fd_before, **traces.metrics_before},
        metrics_after={
            FRECHET_DISTANCE: gate.fd_after,
            "standard_error": gate.standard_error,
            "upper_bound": gate.upper_bound,
            **traces.metrics_after,
        },
        pictures=grids,
        records=records,
    )
    log_distance_chart(ws, run_id)


def log_record(ws: Workspace, run_id: str, record: Path) -> None:
    """Add one more record to a run."""
    client(ws).log_artifact(run_id, str(record), "records")


def log_review(ws: Workspace, run_id: str, decision: str, version: int, record: Path) -> None:
    """Add a person's decision to the run of what was decided on."""
    client(ws).set_tag(run_id, "verdict", decision)
    client(ws).set_tag(run_id, "reviewed_version", str(version))
    log_record(ws, run_id, record)


def log_stop(ws: Workspace, run_id: str, note: str, version: int, record: Path) -> None:
    """Show a stop in its run, before there is anything to measure."""
    tags = {"kind": "forget"}
    log_audit(ws, run_id, note=note, model_version=version, tags=tags, metrics_before={}, metrics_after={}, pictures={}, records=[record])


def draw_grids(
    ws: Workspace,
    pictures: list[PictureRequest],
    sides: Mapping[str, Composition],
    *,
    filed_under: Composition,
    blank: Collection[int] = (),
) -> dict[str, Picture]:
    """A grid of the first evaluation pictures for each side, from the same seeds and captions.

    Pictures that shards in `blank` made are left white on the side "before": a tainted adapter's outputs are erased with it, so that a
    grid which kept them couldn't stay with the record. What is left was made by adapters that `filed_under` has too, and the grids are
    erased when one of those is. Methods that mix several experts in a picture leave the whole side white.
    """
    grids = {}
    for name, composition in sides.items():
        made, _ = load_generated(ws, composition, pictures)
        made = made[:_GRID_PICTURES].clone()
        if name == "before":
            made[[row for row, picture in enumerate(pictures[:_GRID_PICTURES]) if _is_made_by(composition, picture, blank)]] = 255
        folder = ws.cache / "grids" / filed_under.digest
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        write_atomically(path, build_grid(made, _GRID_COLUMNS, _GRID_SCALE))
        grids[name] = Picture(path=path, composition=filed_under.digest)
    return grids


def _is_made_by(composition: Composition, picture: PictureRequest, shards: Collection[int]) -> bool:
    """Whether any of the shards' experts has a part in the picture."""
    if composition.is_one_expert_a_seed:
        return composition.experts[draw_expert(composition.experts, picture.seed)].shard in shards
    return bool(set(composition.shards) & set(shards))


def promote_version(ws: Workspace, ledger: Ledger, version: int, *, expected: int | None, request_id: str | None, now: datetime) -> None:
    """Move the champion alias; a promotion that is recorded as done is not done again."""
    promote(ws, ledger, version, expected=expected, request_id=request_id, now=now)


def champion_composition(ws: Workspace) -> tuple[int, Composition] | None:
    """The serving version and its composition; None before the first build."""
    present = champion(ws)
    return (present.version, load_composition(ws, present.composition)) if present else None


def adapters_by_shard(composition: Composition) -> dict[str, Json]:
    """For a record: each shard's part in the composition, so that a replay can compose again from the record and what it retrained."""
    return {
        str(expert.shard): {"adapter": expert.adapter, "samples": expert.samples, "centroids": expert.centroids}
        for expert in composition.experts
    }


def replaced_adapters(before: Composition, after: Composition) -> dict[str, Json]:
    """For a record: the shards whose adapter is another one, or gone, by its digest before and after."""
    old, new = ({expert.shard: expert.adapter for expert in side.experts} for side in (before, after))
    return {
        str(shard): {"before": old.get(shard), "after": new.get(shard)}
        for shard in sorted({*old, *new})
        if old.get(shard) != new.get(shard)
    }


def manifest_digests(ws: Workspace, shards: Sequence[int]) -> dict[str, Json]:
    """For a record: the digests of shards' manifests as they are now."""
    return {str(shard): sha256_digest(ws.manifest(shard).read_bytes()) for shard in shards if ws.manifest(shard).is_file()}


def untouched_shards(before: Composition, after: Composition) -> list[int]:
    """Shards whose adapter is byte for byte the same on both sides."""
    old = {expert.shard: expert.adapter for expert in before.experts}
    return [expert.shard for expert in after.experts if old.get(expert.shard) == expert.adapter]


def data_artifacts(ws: Workspace, shards: Sequence[int]) -> list[dict[str, str]]:
    """Manifests and adapters of shards, by path and digest, as a record's `artifacts`."""
    paths = [path for shard in shards for path in (ws.manifest(shard), ws.adapter(shard)) if path.is_file()]
    return [{"path": str(path.relative_to(ws.root)), "digest": sha256_digest(path.read_bytes())} for path in paths]
