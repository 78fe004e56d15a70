"""All experts in one pass say what the merged networks say one after the other."""

import pytest
import torch
from tiny_backbone import make_adapter, make_composition, make_expert, tiny_backbone

from cdm_core.adapters import AdapterTensors, attach_adapter, initial_adapter, merge_adapter
from cdm_core.backbone import Backbone, load_backbone
from cdm_core.composition.mixing import Condition, build_mixer
from cdm_core.composition.sampling import encode_each, evaluate_network, sample_latents
from cdm_core.composition.stacking import TOLERANCE, StackedExperts
from cdm_core.errors import VerificationError

SHARDS = (0, 2, 5)


def inputs(backbone: Backbone, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(num, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))
    return x, encode_each(backbone, [f"thing {row % 3}" for row in range(num)])


def shipped_adapters(num: int) -> list[AdapterTensors]:
    """Of the shipped network and rank, changing what it says."""
    backbone, generator = load_backbone(), torch.Generator().manual_seed(0)
    model = attach_adapter(backbone, 8)
    starts = [initial_adapter(model, shard) for shard in range(num)]
    return [{n: 0.05 * torch.randn(t.shape, generator=generator) if "lora_B" in n else t for n, t in start.items()} for start in starts]


@pytest.mark.parametrize("num", [1, 5, 6, 17])
def test_stacked_equals_sequential_within_the_stated_tolerance(num: int) -> None:
    backbone = tiny_backbone()
    x, tokens = inputs(backbone, num)
    together = StackedExperts(backbone, [make_adapter(shard) for shard in SHARDS]).predict_velocities(x, 0.6, tokens)
    with torch.no_grad():
        in_turn = torch.stack([evaluate_network(make_expert(shard), x, 0.6, tokens) for shard in SHARDS])
    assert together.shape == in_turn.shape
    assert float((together - in_turn).abs().max()) < TOLERANCE
    assert float((together[0] - together[1]).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("num_experts", [2, 8, 17])
def test_so_it_does_on_the_shipped_network(num_experts: int) -> None:
    backbone, adapters = load_backbone(), shipped_adapters(num_experts)
    x, tokens = inputs(backbone, 2)
    together = StackedExperts(backbone, adapters).predict_velocities(x, 0.6, tokens)
    for position in (0, num_experts - 1):
        with torch.no_grad():
            alone = evaluate_network(merge_adapter(backbone, adapters[position]), x, 0.6, tokens)
        assert float((together[position] - alone).abs().max()) < TOLERANCE
    assert float((together[0] - together[1]).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("num_experts", [2, 3, 8])
def test_neighbours_place_and_number_change_no_bit(num_experts: int) -> None:
    backbone = load_backbone()
    stacked = StackedExperts(backbone, shipped_adapters(num_experts))
    x, tokens = inputs(backbone, 9)
    together = stacked.predict_velocities(x, 0.5, tokens)
    for rows in ([8], [5], [7, 0, 8]):
        assert torch.equal(stacked.predict_velocities(x[rows], 0.5, tokens[rows]), together[:, rows])


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_dense_method_draws_the_same_pictures_either_way(guidance_scale: float) -> None:
    backbone = tiny_backbone()
    composition = make_composition(backbone, dict.fromkeys(SHARDS, 3), "average", steps=2, guidance_scale=guidance_scale)
    condition, mixer = Condition(captions=["cat"] * 4, seeds=[1, 2, 3, 4]), build_mixer(composition, backbone, {})
    experts = [make_expert(shard) for shard in SHARDS]
    stacked = StackedExperts(backbone, [make_adapter(shard) for shard in SHARDS])
    in_turn = sample_latents(backbone, experts, mixer, condition, composition.sampling)
    together = sample_latents(backbone, experts, mixer, condition, composition.sampling, stacked=stacked)
    assert float((together - in_turn).abs().max()) < 10 * TOLERANCE
    one = Condition(captions=["cat"], seeds=[3])
    assert torch.equal(sample_latents(backbone, experts, mixer, one, composition.sampling, stacked=stacked)[0], together[2])


def test_the_backbone_stays_as_it_is() -> None:
    backbone = tiny_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    StackedExperts(backbone, [make_adapter(0), make_adapter(2)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.network.state_dict().items())
    assert set(backbone.network.state_dict()) == set(before)


def test_adapters_of_another_network_are_refused() -> None:
    with pytest.raises(VerificationError, match=r"^adapter: its tensors don't fit this backbone and rank$"):
        StackedExperts(tiny_backbone(), shipped_adapters(2))


def test_adapters_of_several_ranks_are_not_stacked() -> None:
    other = initial_adapter(attach_adapter(tiny_backbone(), 3), 0)
    with pytest.raises(VerificationError, match=r"^adapters: their tensors differ in name or shape"):
        StackedExperts(tiny_backbone(), [make_adapter(0), other])
