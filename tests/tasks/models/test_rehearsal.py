"""What a waiting worker rehearses loads the networks, and leaves nothing behind that would change an adapter."""

import torch

from cdm_core.adapters import adapter_to_bytes, initial_adapter
from cdm_core.settings import parse_settings
from cdm_core.training import StagePosition, StageSamples, train_stage
from tasks.data.shipped import shipped_file
from tasks.models.rehearsal import rehearse_models
from tasks.models.seen_pictures import shared_extractor
from tasks.training.shard_training import scratch_model


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
