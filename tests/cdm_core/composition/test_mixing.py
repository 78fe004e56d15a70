from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_backbone import make_composition, tiny_backbone

from cdm_core.backbone import Backbone
from cdm_core.composition.document import Expert
from cdm_core.composition.mixing import (
    Average,
    BareBackbone,
    Condition,
    Knn,
    Predictions,
    RandomPerStep,
    ShardPerImage,
    build_mixer,
    draw_expert,
)
from cdm_core.digests import Digest, sha256_digest

NUM_DRAWS = 20_000
COUNTS = (600, 250, 100, 50)


def experts(*counts: int) -> tuple[Expert, ...]:
    return tuple(
        Expert(shard=shard, adapter=Digest("0" * 64), samples=count, centroids=None) for shard, count in enumerate(counts) if count
    )


def condition(num: int) -> Condition:
    return Condition(captions=[""] * num, seeds=list(range(num)))


def unused(step: int = 0, num: int = 50) -> Predictions:
    def refuse(position: int, rows: torch.Tensor) -> torch.Tensor:
        raise AssertionError("this method needs no prediction")

    return Predictions(step=step, evaluate=refuse, active_BN=torch.ones(num, 4, dtype=torch.bool))


def saying(velocities: torch.Tensor) -> Predictions:
    active = torch.ones(velocities.shape[1], len(velocities), dtype=torch.bool)
    return Predictions(step=0, evaluate=lambda position, rows: velocities[position][rows], active_BN=active)


@pytest.mark.parametrize("stream", [(), (3,)], ids=["per picture", "per step"])
def test_an_expert_is_drawn_in_proportion_to_its_samples(stream: tuple[int, ...]) -> None:
    drawn = Counter(draw_expert(experts(*COUNTS), seed, *stream) for seed in range(NUM_DRAWS))
    expected = [NUM_DRAWS * count / sum(COUNTS) for count in COUNTS]
    chi_square = sum((drawn[position] - mean) ** 2 / mean for position, mean in enumerate(expected))
    assert chi_square < 16.27  # 3 degrees of freedom: one run in a thousand is above it, and the seeds are fixed
    assert sum(abs(drawn[position] - mean) for position, mean in enumerate(expected)) / 2 / NUM_DRAWS < 0.01


def test_taking_a_shard_away_moves_no_picture_between_the_others() -> None:
    everyone = experts(*COUNTS)
    for gone in range(len(COUNTS)):
        rest = tuple(expert for expert in everyone if expert.shard != gone)
        before = [everyone[draw_expert(everyone, seed)].shard for seed in range(2000)]
        after = [rest[draw_expert(rest, seed)].shard for seed in range(2000)]
        assert [new for old, new in zip(before, after, strict=True) if old != gone] == [old for old in before if old != gone]


def test_fewer_samples_move_pictures_away_from_the_hit_shard_only() -> None:
    before, after = experts(*COUNTS), experts(300, *COUNTS[1:])
    moves = {(draw_expert(before, seed), draw_expert(after, seed)) for seed in range(5000)}
    assert {(old, new) for old, new in moves if old != new} == {(0, 1), (0, 2), (0, 3)}


def test_the_order_in_which_experts_are_listed_does_not_matter() -> None:
    everyone = experts(*COUNTS)
    backwards = everyone[::-1]
    assert all(everyone[draw_expert(everyone, seed)] == backwards[draw_expert(backwards, seed)] for seed in range(500))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 20))
def test_weights_of_every_plain_method_sum_to_one(counts: list[int], num: int, step: int) -> None:
    x = torch.zeros(num, 3, 4, 4)
    for mixer in (ShardPerImage(experts=experts(*counts)), RandomPerStep(experts=experts(*counts)), Average(experts=experts(*counts))):
        weights = mixer.weights(x, 0.5, unused(step), condition(num))
        assert weights.shape == (num, len(counts))
        assert torch.allclose(weights.sum(dim=1), torch.ones(num))
    assert torch.equal(BareBackbone().weights(x, 0.5, unused(step), condition(num)), torch.ones(num, 1))


def test_one_shard_makes_a_picture_from_the_first_step_to_the_last() -> None:
    mixer = ShardPerImage(experts=experts(*COUNTS))
    x, asked = torch.zeros(50, 3, 4, 4), condition(50)
    first = mixer.weights(x, 1.0, unused(), asked)
    assert all(torch.equal(mixer.weights(x, 0.5, unused(step), asked), first) for step in range(1, 12))
    assert first.argmax(dim=1).tolist() == [draw_expert(experts(*COUNTS), seed) for seed in range(50)]


def test_random_draws_anew_at_each_step() -> None:
    mixer = RandomPerStep(experts=experts(1, 1, 1, 1))
    chosen = [mixer.weights(torch.zeros(50, 3, 4, 4), 0.5, unused(step), condition(50)).argmax(dim=1) for step in range(12)]
    assert all(not torch.equal(one, other) for one, other in pairwise(chosen))
    # 600 draws among four experts.
    assert min(Counter(torch.cat(chosen).tolist()).values()) > 100


def test_average_gives_all_the_same() -> None:
    weights = Average(experts=experts(9, 1, 5)).weights(torch.zeros(2, 3, 4, 4), 0.5, unused(), condition(2))
    assert torch.equal(weights, torch.full((2, 3), 1 / 3))


def test_knn_picks_the_expert_whose_centroid_the_predicted_picture_is_nearest_to() -> None:
    backbone = tiny_backbone()
    pictures = torch.stack([torch.full((3, 32, 32), -1.0), torch.full((3, 32, 32), 1.0)])
    pictures[0, 0] = 1.0  # red on one side, white on the other
    embeddings = backbone.clip.embed_pictures(pictures)
    mixer = Knn(experts=experts(10, 10), centroids=(embeddings[:1], embeddings[1:]), temperature=0.01, backbone=backbone)
    # With the true velocity, x_t leads back to the picture whatever the noise.
    noise, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 0.7
    noisy, velocity = torch.lerp(pictures, noise, t), noise - pictures
    weights = mixer.weights(noisy, t, saying(torch.stack([velocity, velocity])), condition(2))
    assert weights.argmax(dim=1).tolist() == [0, 1]
    assert float(weights.amax(dim=1).min()) > 0.99
    swapped = Knn(experts=experts(10, 10), centroids=(embeddings[1:], embeddings[:1]), temperature=0.01, backbone=backbone)
    assert swapped.weights(noisy, t, saying(torch.stack([velocity, velocity])), condition(2)).argmax(dim=1).tolist() == [1, 0]


def test_knn_far_from_everything_falls_back_on_the_priors() -> None:
    backbone = tiny_backbone()
    centroid = torch.zeros(1, 128)
    mixer = Knn(experts=experts(30, 10), centroids=(centroid, centroid), temperature=0.05, backbone=backbone)
    weights = mixer.weights(torch.zeros(1, 3, 32, 32), 0.5, saying(torch.zeros(2, 1, 3, 32, 32)), condition(1))
    assert torch.allclose(weights, torch.tensor([[0.75, 0.25]]))


def test_each_method_is_built_by_its_name() -> None:
    backbone = tiny_backbone()
    files = {0: b"centroids of 0", 1: b"centroids of 1"}
    points = {sha256_digest(content): torch.zeros(1, 128) for content in files.values()}
    composed = make_composition(backbone, {0: 3, 1: 4}, centroids=files)
    for method, kind in [("shard_per_image", ShardPerImage), ("random", RandomPerStep), ("average", Average), ("knn", Knn)]:
        assert type(build_mixer(composed.with_method(method), backbone, points)) is kind  # type: ignore[arg-type]  # the names of methods


@pytest.mark.parametrize("has_clip", [True, False])
def test_knn_needs_centroids_and_clip(has_clip: bool) -> None:
    backbone = tiny_backbone()

    class OtherBackbone:
        digest = backbone.digest

    files = {0: b"centroids"}
    composed = make_composition(backbone, {0: 3}, "knn", centroids=None if has_clip else files)
    other: Backbone = backbone if has_clip else OtherBackbone()  # type: ignore[assignment]  # one without CLIP
    with pytest.raises(ValueError, match="knn and CLIP priors need a backbone with CLIP and the centroids of every expert"):
        build_mixer(composed, other, {sha256_digest(b"centroids"): torch.zeros(1, 128)})
