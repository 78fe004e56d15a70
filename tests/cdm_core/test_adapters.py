from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from tiny_backbone import make_adapter, tiny_backbone

from cdm_core.adapters import (
    adapter_from_bytes,
    adapter_rank,
    adapter_to_bytes,
    attach_adapter,
    initial_adapter,
    merge_adapter,
    read_adapter,
    write_adapter,
)
from cdm_core.backbone import PixelBackbone, load_backbone, predict_velocity
from cdm_core.errors import VerificationError


@torch.no_grad()
def predict(backbone: PixelBackbone, network: torch.nn.Module) -> torch.Tensor:
    x = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    return predict_velocity(network, x, torch.tensor([0.3, 0.8]), backbone.encode_captions(["cat", "dog"]))


@pytest.mark.parametrize("backbone", [pytest.param(tiny_backbone, id="tiny"), pytest.param(load_backbone, id="shipped")])
def test_an_untrained_adapter_changes_no_bit(backbone: object) -> None:
    frozen = backbone()  # type: ignore[operator]  # a parameter is typed as object
    model = attach_adapter(frozen, 2)
    untrained = initial_adapter(model, 3)
    write_adapter(model, untrained)
    expected = predict(frozen, frozen.network)
    assert torch.equal(predict(frozen, model.eval()), expected)
    assert torch.equal(predict(frozen, merge_adapter(frozen, untrained)), expected)


def test_merged_and_attached_agree_to_rounding() -> None:
    backbone = tiny_backbone()
    trained = make_adapter(1)
    model = attach_adapter(backbone, 2)
    write_adapter(model, trained)
    attached, merged, bare = (predict(backbone, n) for n in (model.eval(), merge_adapter(backbone, trained), backbone.network))
    assert torch.allclose(merged, attached, atol=1e-4)
    assert not torch.allclose(merged, bare, atol=1e-2)


@pytest.mark.parametrize("backbone", [pytest.param(tiny_backbone, id="tiny"), pytest.param(load_backbone, id="shipped")])
def test_merged_weights_are_those_of_peft_bit_for_bit_whatever_was_merged_before(backbone: Callable[[], PixelBackbone]) -> None:
    frozen = backbone()
    model, generator = attach_adapter(frozen, 2), torch.Generator().manual_seed(5)
    start = read_adapter(model)
    first, second = ({name: torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()} for _ in range(2))
    merge_adapter(frozen, first)
    merged = merge_adapter(frozen, second).state_dict()
    write_adapter(model, second)
    expected = model.merge_and_unload().state_dict()
    assert set(merged) == set(expected)
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert all(merged[name].stride() == frozen.network.state_dict()[name].stride() for name in merged)


def test_threads_that_merge_at_once_get_each_its_own_expert() -> None:
    backbone = tiny_backbone()
    adapters = [make_adapter(seed) for seed in range(8)]
    alone = [merge_adapter(backbone, adapter).state_dict() for adapter in adapters]
    with ThreadPoolExecutor(4) as pool:
        together = [network.state_dict() for network in pool.map(partial(merge_adapter, backbone), adapters)]
    for expected, found in zip(alone, together, strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_without_an_adapter_the_expert_is_the_backbone_itself() -> None:
    assert merge_adapter(tiny_backbone(), None) is tiny_backbone().network


def test_merging_leaves_the_backbone_alone() -> None:
    backbone = tiny_backbone()
    before = predict(backbone, backbone.network)
    merged = merge_adapter(backbone, make_adapter(1))
    assert torch.equal(predict(backbone, backbone.network), before)
    assert set(merged.state_dict()) == set(backbone.network.state_dict())


def test_the_start_is_a_function_of_the_shard_alone() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(1)
    first = initial_adapter(attach_adapter(backbone, 2), 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = initial_adapter(attach_adapter(backbone, 2), 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert adapter_to_bytes(first) == adapter_to_bytes(second)
    assert adapter_to_bytes(first) != adapter_to_bytes(initial_adapter(attach_adapter(backbone, 2), 1))


def test_the_start_is_kaiming_uniform_below_and_zero_above() -> None:
    for name, tensor in initial_adapter(attach_adapter(tiny_backbone(), 2), 0).items():
        if "lora_A" in name:
            bound = tensor[0].numel() ** -0.5
            assert 0.8 * bound < float(tensor.abs().max()) <= bound
        else:
            assert not bool(tensor.any())


def test_bytes_round_trip() -> None:
    trained = make_adapter(1)
    content = adapter_to_bytes(trained)
    read = adapter_from_bytes(content)
    assert set(read) == set(trained)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in read.items())
    assert adapter_to_bytes(dict(reversed(read.items()))) == content


def test_what_is_written_is_read_and_not_shared() -> None:
    backbone = tiny_backbone()
    model, trained = attach_adapter(backbone, 2), make_adapter(1)
    write_adapter(model, trained)
    read = read_adapter(model)
    assert adapter_to_bytes(read) == adapter_to_bytes(trained)
    next(iter(read.values())).zero_()
    assert adapter_to_bytes(read_adapter(model)) == adapter_to_bytes(trained)


def test_another_rank_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"^adapter: its tensors don't fit this backbone and rank$"):
        write_adapter(attach_adapter(tiny_backbone(), 4), make_adapter(1))


def test_an_adapter_of_another_network_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"^adapter: its tensors don't fit this backbone and rank$"):
        merge_adapter(load_backbone(), make_adapter(1))


def test_a_tensor_too_few_is_refused() -> None:
    trained = make_adapter(1)
    trained.pop(next(iter(trained)))
    with pytest.raises(VerificationError, match=r"^adapter: its tensors don't fit this backbone and rank$"):
        merge_adapter(tiny_backbone(), trained)


@pytest.mark.parametrize("tensors", [{}, {"weight": torch.ones(2)}, {"x.lora_A.weight": torch.tensor(1.0)}])
def test_an_adapter_without_rank_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(VerificationError, match=r"^adapter: it has no down-projections$"):
        merge_adapter(tiny_backbone(), tensors)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_is_read_from_the_tensors(rank: int) -> None:
    assert adapter_rank(initial_adapter(attach_adapter(tiny_backbone(), rank), 0)) == rank


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      junk", b"\xff" * 16])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(VerificationError, match=r"^adapter: not safetensors: "):
        adapter_from_bytes(content)
