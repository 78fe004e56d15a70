import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors.torch import load, save
from tiny_backbone import TINY_CONFIG, make_samples, shipped_clip

from cdm_core.backbone import build_network
from cdm_core.pretraining.backbone import BackboneTrainer, BackboneTrainingConfig, BackboneTrainingData, shift

CONFIG = BackboneTrainingConfig(batch_size=2, warmup_steps=3, learning_rate=0.01)


@pytest.fixture(scope="module")
def data() -> BackboneTrainingData:
    samples = make_samples(["a", "b", "c"])
    tokens = shipped_clip().encode_tokens(samples.captions)
    return BackboneTrainingData(
        pictures=samples.pictures,
        tokens=tokens,
        short_tokens=shipped_clip().encode_tokens(["a", "b", "c"]),
        empty_tokens=shipped_clip().encode_tokens([""]),
    )


def new_trainer(data: BackboneTrainingData, config: BackboneTrainingConfig = CONFIG, *, network_seed: int = 0) -> BackboneTrainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(network_seed)
        return BackboneTrainer(build_network(TINY_CONFIG), data, config)


def run(trainer: BackboneTrainer, steps: int) -> list[float]:
    return list(islice(trainer.run(), steps))


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(data: BackboneTrainingData) -> None:
    unbroken, first = new_trainer(data), new_trainer(data)
    losses = run(unbroken, 4)
    assert run(first, 2) == losses[:2]
    saved = save(first.state())
    resumed = new_trainer(data, network_seed=1)
    resumed.restore(load(saved))
    assert resumed.num_pictures_seen == first.num_pictures_seen == 4
    assert run(resumed, 2) == losses[2:]
    assert save(resumed.state()) == save(unbroken.state())


def test_training_reads_no_global_generator(data: BackboneTrainingData) -> None:
    losses = []
    for seed in (1, 2):
        trainer = new_trainer(data)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        losses.append(run(trainer, 2))
        assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1]


def test_the_loss_falls(data: BackboneTrainingData) -> None:
    white = replace(data, pictures=torch.full_like(data.pictures, 255))
    losses = run(new_trainer(white), 16)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_the_average_opens_up_and_follows(data: BackboneTrainingData) -> None:
    trainer = new_trainer(data)
    name = "conv_in.weight"
    start = trainer.ema[name].clone()
    run(trainer, 1)
    weight = trainer.network.state_dict()[name]
    # After one step the average weighs its past by 2/11.
    assert torch.allclose(trainer.ema[name], torch.lerp(start, weight, 9 / 11), atol=1e-7)
    assert not torch.allclose(weight, start)


def test_the_seed_chooses_pictures_and_noise(data: BackboneTrainingData) -> None:
    assert run(new_trainer(data), 1) != run(new_trainer(data, BackboneTrainingConfig(batch_size=2, seed=1)), 1)


@pytest.mark.parametrize(("dropout", "short_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_captions_are_dropped_and_shortened_as_configured(data: BackboneTrainingData, dropout: float, short_share: float) -> None:
    config = BackboneTrainingConfig(batch_size=2, caption_dropout=dropout, short_caption_share=short_share)
    drawn = new_trainer(data, config)._draw_tokens(torch.tensor([0, 2, 1]), torch.Generator().manual_seed(0))
    full = data.empty_tokens.expand_as(data.tokens) if dropout else data.short_tokens if short_share else data.tokens
    assert torch.equal(drawn, full[[0, 2, 1]])


def test_a_shift_moves_by_whole_pixels_and_pads_with_white() -> None:
    pictures = torch.full((40, 3, 8, 8), -1.0)
    pictures[:, :, 4, 4] = 0.5
    moved = shift(pictures, 2, torch.Generator().manual_seed(0))
    assert moved.shape == pictures.shape
    places = {tuple((picture[0] == 0.5).nonzero()[0].tolist()) for picture in moved}
    assert places <= {(y, x) for y in range(2, 7) for x in range(2, 7)}
    assert len(places) > 15
    for picture in moved:
        y, x = (picture[0] == 0.5).nonzero()[0].tolist()
        expected = torch.ones(8, 8)
        expected[max(0, y - 4) : 8 + min(0, y - 4), max(0, x - 4) : 8 + min(0, x - 4)] = -1
        expected[y, x] = 0.5
        assert torch.equal(picture[1], expected)
