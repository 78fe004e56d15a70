"""Rehearsals for processes that wait: what a flow would find slow the first time is done once before, and thrown away.

Workers load the networks and use each (`rehearse_models`); the process that runs the flow uses every store (`rehearse_stores`), since
libraries import and find out much at their first call. The pictures are grey and belong to nobody.
"""

import io
from datetime import UTC, datetime
from pathlib import Path

import torch
from PIL import Image

from cdm_core.adapters import initial_adapter, merge_adapter
from cdm_core.composition.sampling import evaluate_network
from cdm_core.digests import Digest
from cdm_core.evaluation.frechet import build_frechet_reference
from cdm_core.evaluation.moments import compute_moments
from cdm_core.evaluation.quality_gate import GeneratedFeatures, judge_quality
from cdm_core.settings import Settings
from cdm_core.training import StagePosition, StageSamples, train_stage
from tasks.data.data_versions import commit_data, require_committed
from tasks.data.manifest_store import load_manifest
from tasks.data.pictures import SourcePicture
from tasks.data.samples import remove_samples
from tasks.data.workspace_init import create_workspace
from tasks.deletion.erasure import erase_objects, objects_to_erase
from tasks.evidence.audit_log import open_run
from tasks.keys import create_keys, owner_secret
from tasks.models.compositions import compose
from tasks.models.model_registry import champion, register_composition
from tasks.models.seen_pictures import shared_extractor
from tasks.models.tracking import create_tracking
from tasks.training.shard_training import scratch_model, shared_backbone_digest
from tasks.workspace import Workspace


def rehearse_models(settings: Settings) -> None:
    """One training step, one prediction, one look and one verdict, with a workspace's settings. Run it in a process of one thread."""
    backbone, model = scratch_model(settings.training.rank)
    num = max(settings.training.batch_size, 4)
    samples = StageSamples(
        sample_ids=[Digest(f"{row:064}") for row in range(num)],
        captions=[""] * num,
        pictures=torch.full((num, 3, 32, 32), 128, dtype=torch.uint8),
    )
    once = settings.training.model_copy(update={"epochs": 1})
    adapter = train_stage(backbone, model, initial_adapter(model, 0), samples, StagePosition(shard=0, stage=0), once)
    latents = backbone.encode_pictures(samples.pictures)
    evaluate_network(merge_adapter(backbone, adapter), latents, 0.5, backbone.encode_captions(samples.captions))
    backbone.clip.embed_pictures(latents)
    features = shared_extractor(settings.evaluation.inception_weights).extract(samples.pictures)
    sides = GeneratedFeatures(features=features, seeds=torch.arange(num))
    judge_quality(sides, sides, build_frechet_reference(compute_moments(features)), num_blocks=2, margin=0.05)


def rehearse_stores(folder: Path) -> None:
    """A workspace of one grey picture in an empty folder: versioned by git and DVC, registered with MLflow, erased."""
    ws = Workspace(folder)
    create_keys(ws)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(picture, format="PNG")
    grey = SourcePicture(owner_id="nobody", tier=None, png=picture.getvalue(), caption="", arrived_at=datetime(2026, 1, 1, tzinfo=UTC))
    create_workspace(folder, shards=1, stages=1, pictures=[grey], secret=owner_secret(ws), progress=lambda done, of: None)
    create_tracking(ws)
    require_committed(ws, [0])
    shared_backbone_digest()
    composition = compose(ws.settings(), []).to_bytes()
    run_id = open_run(ws, name="rehearsal", step_key="run", tags={})
    register_composition(ws, composition=composition, adapters={}, centroids={}, run_id=run_id, purpose="stop", step_key="rehearsal")
    champion(ws)
    hits = load_manifest(ws, 0)
    commit_data(ws, remove_samples(ws, hits), "Rehearse")
    erase_objects(ws, objects_to_erase(ws, hits))
