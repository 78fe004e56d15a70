"""What a waiting process rehearses is really done, and leaves nothing behind that would change an adapter or a store."""

from pathlib import Path

import torch

from cdm_core.adapters import adapter_to_bytes, initial_adapter
from cdm_core.settings import parse_settings
from cdm_core.training import StagePosition, StageSamples, train_stage
from tasks.data.data_history import references_ever
from tasks.data.manifest_store import load_manifest
from tasks.data.shipped import shipped_file
from tasks.models.model_registry import get_version
from tasks.models.rehearsal import rehearse_models, rehearse_stores
from tasks.models.seen_pictures import shared_extractor
from tasks.models.tracking import client
from tasks.training.shard_training import scratch_model
from tasks.workspace import Workspace


def test_an_adapter_trained_after_a_rehearsal_is_the_one_trained_before() -> None:
    torch.set_num_threads(1)
    settings = parse_settings(shipped_file("params.yaml").read_bytes(), "params.yaml")
    backbone, model = scratch_model(settings.training.rank)
    samples = StageSamples(sample_ids=["a", "b"], captions=["red heart", ""], pictures=torch.full((2, 3, 32, 32), 200, dtype=torch.uint8))

    def train() -> bytes:
        start = initial_adapter(model, 3)
        return adapter_to_bytes(train_stage(backbone, model, start, samples, StagePosition(shard=3, stage=3), settings.training))

    before = train()
    shared_extractor.cache_clear()
    rehearse_models(settings)
    assert train() == before
    assert shared_extractor.cache_info().currsize == 1


def test_the_stores_are_used_up_to_an_erasure_and_nothing_lies_outside_their_folder(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "rehearsal")
    ws.root.mkdir()
    rehearse_stores(ws.root)
    assert load_manifest(ws, 0).empty
    assert len({reference.object_id for reference in references_ever(ws) if reference.path == "data_packs/shard-0"}) == 2
    assert get_version(client(ws), 1).tags["step_key"] == "rehearsal"
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsal"]
