"""A picture is a function of (composition, caption, seed): the bits, not only the looks."""

from collections.abc import Sequence

import pytest
import torch
from tiny_backbone import make_composition, make_expert, tiny_backbone

from cdm_core.backbone import PixelBackbone, load_backbone
from cdm_core.composition.document import Composition
from cdm_core.composition.mixing import BareBackbone, Condition, build_mixer, draw_expert
from cdm_core.composition.sampling import NETWORK_BATCH, draw_start, encode_each, evaluate_network, sample_latents
from cdm_core.digests import Digest, sha256_digest
from cdm_core.settings import Method, SamplingSettings

SAMPLES = {0: 5, 2: 9, 5: 7}
METHODS: list[Method] = ["shard_per_image", "knn", "average", "random"]
# One more than a batch of the network, so that the last row is evaluated in another batch than the first.
SEEDS = list(range(100, 100 + 2 * NETWORK_BATCH + 1))


def centroids_of(shard: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(2, 128, generator=torch.Generator().manual_seed(shard)), dim=1)


def files_of(samples: dict[int, int]) -> dict[int, bytes]:
    return {shard: f"centroids of {shard}".encode() for shard in samples}


def expert_networks(composition: Composition) -> list[torch.nn.Module]:
    return [make_expert(shard) for shard in composition.shards]


def sample(backbone: PixelBackbone, composition: Composition, seeds: Sequence[int], captions: Sequence[str] | None = None) -> torch.Tensor:
    points: dict[Digest, torch.Tensor] = {
        sha256_digest(content): centroids_of(shard) for shard, content in files_of(dict.fromkeys(composition.shards, 1)).items()
    }
    condition = Condition(captions=list(captions or [f"thing {seed % 3}" for seed in seeds]), seeds=list(seeds))
    mixer = build_mixer(composition, backbone, points)
    return sample_latents(backbone, expert_networks(composition), mixer, condition, composition.sampling)


def composition_of(samples: dict[int, int], method: Method, guidance_scale: float = 1.0) -> Composition:
    return make_composition(tiny_backbone(), samples, method, steps=2, guidance_scale=guidance_scale, centroids=files_of(samples))


@pytest.mark.parametrize(("method", "guidance_scale"), [(method, 1.0) for method in METHODS] + [("shard_per_image", 2.0)])
def test_neighbours_place_and_number_change_no_bit(method: Method, guidance_scale: float) -> None:
    backbone, composition = tiny_backbone(), composition_of(SAMPLES, method, guidance_scale)
    together = sample(backbone, composition, SEEDS)
    alone = sample(backbone, composition, SEEDS[-1:])
    assert torch.equal(alone[0], together[-1])
    some = [SEEDS[12], SEEDS[3], SEEDS[-1]]
    assert torch.equal(sample(backbone, composition, some), together[[12, 3, -1]])


def test_neighbours_place_and_number_change_no_bit_of_the_shipped_network() -> None:
    backbone = load_backbone()
    x = torch.randn(2 * NETWORK_BATCH + 1, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    tokens = encode_each(backbone, [f"thing {row % 3}" for row in range(len(x))])
    together = evaluate_network(backbone.network, x, 0.5, tokens)
    for rows in ([16], [7], [9, 0, 16, 4]):
        assert torch.equal(evaluate_network(backbone.network, x[rows], 0.5, tokens[rows]), together[rows])


@pytest.mark.parametrize("method", METHODS)
def test_caption_and_seed_do_change_it(method: Method) -> None:
    backbone, composition = tiny_backbone(), composition_of(SAMPLES, method)
    made = sample(backbone, composition, [1, 1, 1, 2], ["cat", "cat", "dog", "cat"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])


@pytest.mark.parametrize("gone", SAMPLES)
def test_without_a_shard_the_pictures_of_the_others_keep_every_bit(gone: int) -> None:
    backbone, whole = tiny_backbone(), composition_of(SAMPLES, "shard_per_image")
    never_had_it = composition_of({shard: count for shard, count in SAMPLES.items() if shard != gone}, "shard_per_image")
    assert whole.restricted_to(list(never_had_it.shards)) == never_had_it
    makers = [whole.experts[draw_expert(whole.experts, seed)].shard for seed in SEEDS]
    with_it, without_it = sample(backbone, whole, SEEDS), sample(backbone, never_had_it, SEEDS)
    is_same = [torch.equal(one, other) for one, other in zip(with_it, without_it, strict=True)]
    assert is_same == [maker != gone for maker in makers]
    assert gone in makers


def test_a_shard_alone_makes_its_pictures_of_the_whole_composition() -> None:
    backbone, whole = tiny_backbone(), composition_of(SAMPLES, "shard_per_image")
    together = sample(backbone, whole, SEEDS)
    for position, shard in enumerate(whole.shards):
        rows = [row for row, seed in enumerate(SEEDS) if draw_expert(whole.experts, seed) == position]
        captions = [f"thing {SEEDS[row] % 3}" for row in rows]
        alone = sample(backbone, whole.restricted_to([shard]), [SEEDS[row] for row in rows], captions)
        assert torch.equal(alone, together[rows])


@pytest.mark.parametrize("method", ["average", "random"])
def test_any_mixture_of_one_expert_is_that_expert(method: Method) -> None:
    backbone = tiny_backbone()
    assert torch.equal(
        sample(backbone, composition_of({2: 9}, method), SEEDS[:3]), sample(backbone, composition_of({2: 9}, "shard_per_image"), SEEDS[:3])
    )


def test_the_average_is_the_mean_of_the_experts_velocities() -> None:
    backbone = tiny_backbone()
    composition = make_composition(backbone, SAMPLES, "average", steps=1)
    singles = [sample(backbone, make_composition(backbone, {shard: 1}, steps=1), [7]) for shard in SAMPLES]
    # One Euler step is linear in the velocity.
    assert torch.allclose(sample(backbone, composition, [7]), torch.stack(singles).mean(dim=0), atol=1e-5)


class Recorder(torch.nn.Module):
    """Wraps a network and counts its evaluations."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.batches.append(len(x))
        result: tuple[torch.Tensor] = self.network(x, t, tokens, return_dict=return_dict)
        return result


class ConstantVelocity(torch.nn.Module):
    """A straight path: v is the same everywhere."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (torch.full_like(x, 0.25),)


@pytest.mark.parametrize(("guidance_scale", "evaluations"), [(1.0, 3), (2.0, 6)])
def test_guidance_of_one_needs_no_second_evaluation(guidance_scale: float, evaluations: int) -> None:
    backbone, recorder = tiny_backbone(), Recorder(tiny_backbone().network)
    settings = SamplingSettings(steps=3, guidance_scale=guidance_scale, method="shard_per_image")
    sample_latents(backbone, [recorder], BareBackbone(), Condition(captions=["cat"], seeds=[1]), settings)
    assert recorder.batches == [NETWORK_BATCH] * evaluations


def test_guidance_goes_beyond_the_conditional_velocity() -> None:
    backbone = tiny_backbone()
    outcomes = [
        sample(backbone, make_composition(backbone, {0: 1}, steps=1, guidance_scale=scale), [7], [caption])
        for scale, caption in [(1.0, ""), (1.0, "cat"), (3.0, "cat")]
    ]
    unconditional, conditional, guided = outcomes
    assert torch.allclose(guided, unconditional + 3 * (conditional - unconditional), atol=1e-4)
    assert not torch.allclose(guided, conditional, atol=1e-4)


def test_one_shard_per_image_evaluates_each_picture_once() -> None:
    backbone, composition = tiny_backbone(), composition_of(SAMPLES, "shard_per_image")
    recorders = [Recorder(network) for network in expert_networks(composition)]
    condition = Condition(captions=[""] * 12, seeds=list(range(12)))
    sample_latents(backbone, recorders, build_mixer(composition, backbone, {}), condition, composition.sampling)
    used = {draw_expert(composition.experts, seed) for seed in range(12)}
    assert [len(recorder.batches) for recorder in recorders] == [2 if position in used else 0 for position in range(3)]


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_a_straight_path_is_walked_exactly_to_its_end(steps: int) -> None:
    backbone = tiny_backbone()
    settings = SamplingSettings(steps=steps, guidance_scale=1, method="shard_per_image")
    reports: list[None] = []
    made = sample_latents(
        backbone, [ConstantVelocity()], BareBackbone(), Condition(captions=[""], seeds=[3]), settings, lambda: reports.append(None)
    )
    assert torch.allclose(made[0], draw_start(backbone, 3) - 0.25, atol=1e-5)
    assert len(reports) == steps


def test_the_start_follows_from_the_seed_and_global_generators_stay_put() -> None:
    backbone, composition = tiny_backbone(), composition_of(SAMPLES, "random")
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        made.append(sample(backbone, composition, [4]))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0], made[1])
    starts = torch.stack([draw_start(backbone, seed) for seed in range(40)])
    assert abs(float(starts.mean())) < 0.02
    assert abs(float(starts.std()) - 1) < 0.02


def test_more_than_one_thread_is_refused() -> None:
    backbone, composition = tiny_backbone(), composition_of({0: 1}, "shard_per_image")
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match=r"torch runs 2 threads; call torch\.set_num_threads\(1\) first"):
        sample(backbone, composition, [1])
