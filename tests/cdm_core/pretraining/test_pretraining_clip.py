import json
from pathlib import Path

import pytest
import torch

from cdm_core.clip import CLIP_FOLDER, Clip, build_clip, pack_merges
from cdm_core.pretraining.clip import ClipTrainingConfig, ClipTrainingData, augment, info_nce, learn_merges, train_clip

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "white": (240, 240, 240), "black": (10, 10, 10)}
CONFIG = ClipTrainingConfig(num_steps=8, batch_emoji=5)


def plain_colours() -> ClipTrainingData:
    """Both vendors draw five plain squares, one a little darker than the other."""
    noto = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32).contiguous()
    return ClipTrainingData(
        first_vendor=noto,
        second_vendor=noto - 5,
        captions=[f"{name} square" for name in COLOURS],
        short_captions=list(COLOURS),
    )


def untrained(folder: Path) -> Clip:
    merges = folder / "merges.txt.gz"
    merges.write_bytes(pack_merges(learn_merges(plain_colours().captions, 2048)))
    config = json.loads((CLIP_FOLDER / "open_clip_config.json").read_bytes())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_clip(config, merges)


def test_a_few_steps_lower_the_loss(tmp_path: Path) -> None:
    clip = untrained(tmp_path)
    losses = list(train_clip(clip, plain_colours(), CONFIG))
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    assert not clip.model.training


def test_training_follows_from_its_inputs_alone(tmp_path: Path) -> None:
    outcomes = []
    for seed in (1, 2):
        clip = untrained(tmp_path)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        outcomes.append(list(train_clip(clip, plain_colours(), ClipTrainingConfig(num_steps=2, batch_emoji=3))))
        assert torch.equal(torch.get_rng_state(), state)
    assert outcomes[0] == outcomes[1]


def test_merges_come_most_frequent_first_and_mark_word_ends() -> None:
    merges = learn_merges(["aa aa aa bb"], 600)
    assert merges == [("a", "a</w>"), ("b", "b</w>")]


def test_merges_stop_where_the_vocabulary_is_full() -> None:
    words = [f"{one}{other}" for one in "abcdefghij" for other in "klmnopqrst"]
    assert len(learn_merges(words, 2 * 256 + 2 + 7)) == 7


def test_info_nce_is_the_mean_of_both_directions() -> None:
    left = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), dim=1)
    right = torch.eye(2)
    logits = 3 * left @ right.T
    by_hand = torch.stack([-logits.log_softmax(dim).diagonal().mean() for dim in (1, 0)]).mean()
    assert info_nce(left, right, torch.tensor(3.0)).item() == pytest.approx(by_hand.item())
    assert info_nce(right, right, torch.tensor(100.0)).item() == pytest.approx(0, abs=1e-6)


def test_augmented_pictures_stay_in_range_and_differ() -> None:
    pictures = plain_colours().first_vendor[:1].expand(6, -1, -1, -1)
    augmented = augment(pictures, 3, torch.Generator().manual_seed(0))
    assert augmented.shape == pictures.shape
    assert -1 <= float(augmented.min()) <= float(augmented.max()) <= 1
    assert len({picture.numpy().tobytes() for picture in augmented}) == 6
    assert torch.equal(augment(pictures, 3, torch.Generator().manual_seed(0)), augmented)


def test_what_augmentation_uncovers_is_white() -> None:
    black = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    corners = augment(black, 3, torch.Generator().manual_seed(0))[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert bool((corners == 1).any())
