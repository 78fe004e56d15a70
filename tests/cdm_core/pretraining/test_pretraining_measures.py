from dataclasses import dataclass

import pytest
import torch
from tiny_backbone import make_samples, shipped_clip, tiny_backbone

from cdm_core.digests import Digest, sha256_digest
from cdm_core.pretraining.clip import ClipTrainingData
from cdm_core.pretraining.measures import (
    generate_pictures,
    measure_distances,
    measure_image_retrieval,
    measure_retrieval,
    retrieval_at_1,
    split_in_halves,
)
from cdm_core.settings import SamplingSettings


@dataclass(frozen=True)
class MeanColours:
    """A feature extractor of twelve numbers: the mean colour of each quarter."""

    name: str = "mean_colours"
    digest: Digest = sha256_digest(b"mean colours")  # noqa: RUF009  # pure
    dimensions: int = 12

    def extract(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pictures.float() / 64, 2).flatten(1)


def _pictures(num: int, *, seed: int = 0) -> torch.Tensor:
    """Each picture of one colour, so that noise, which is grey on average, is far from all."""
    colours = torch.randint(256, (num, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return colours.expand(num, 3, 32, 32).contiguous()


def test_retrieval_counts_the_rows_whose_nearest_is_their_own() -> None:
    targets = torch.eye(4)
    assert retrieval_at_1(targets, targets) == 1
    assert retrieval_at_1(targets[[0, 1, 3, 2]], targets) == 0.5
    assert retrieval_at_1(targets[[1, 2, 3, 0]], targets) == 0


def test_equal_views_are_found_and_exchanged_ones_are_not() -> None:
    view = make_samples([str(number) for number in range(8)]).pictures
    captions = [f"thing {number}" for number in range(8)]
    equal = ClipTrainingData(first_vendor=view, second_vendor=view, captions=captions, short_captions=captions)
    exchanged = ClipTrainingData(first_vendor=view, second_vendor=view.roll(1, 0), captions=captions, short_captions=captions)
    figures = measure_retrieval(shipped_clip(), equal)
    assert (figures.num_emoji, figures.chance, figures.image_to_image) == (8, 0.125, 1)
    assert figures.image_to_text_noto == figures.image_to_text_twemoji
    assert measure_retrieval(shipped_clip(), exchanged).image_to_image == 0
    assert (measure_image_retrieval(MeanColours(), equal), measure_image_retrieval(MeanColours(), exchanged)) == (1, 0)


def test_halves_are_disjoint_and_do_not_depend_on_the_order() -> None:
    samples = make_samples([str(number) for number in range(9)])
    first, second = split_in_halves(samples, 4)
    assert len(set(first.sample_ids) | set(second.sample_ids)) == 8
    again, _ = split_in_halves(make_samples([str(number) for number in reversed(range(9))]), 4)
    assert again.sample_ids == first.sample_ids
    assert torch.equal(again.pictures, first.pictures)
    assert again.captions == first.captions
    row = samples.sample_ids.index(first.sample_ids[0])
    assert torch.equal(first.pictures[0], samples.pictures[row])


@pytest.mark.parametrize("num", [1, 5])
def test_halves_larger_than_half_are_refused(num: int) -> None:
    with pytest.raises(ValueError, match=f"two halves of {num}: must be 2 to 4"):
        split_in_halves(make_samples([str(number) for number in range(9)]), num)


def test_distances_are_anchored() -> None:
    real = _pictures(40)
    distances = measure_distances(tiny_backbone(), MeanColours(), _pictures(40, seed=1), real, real)
    assert distances.num_pictures == 40
    assert distances.real == pytest.approx(0, abs=1e-3)
    assert distances.real < distances.generated < distances.noise


def test_a_generated_picture_depends_on_its_number_and_caption_alone() -> None:
    sampling = SamplingSettings(steps=2, guidance_scale=1.0, method="shard_per_image")
    captions = [f"thing {number}" for number in range(18)]
    made: list[int] = []
    many = generate_pictures(tiny_backbone(), captions, sampling, made.append)
    few = generate_pictures(tiny_backbone(), captions[:3], sampling, made.append)
    assert torch.equal(many[:3], few)
    assert made == [8, 8, 2, 3]
    assert not torch.equal(many[0], many[1])
