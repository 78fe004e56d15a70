import shutil
from pathlib import Path

import pytest
import torch
from tiny_backbone import tiny_backbone

from cdm_core.adapters import attach_adapter
from cdm_core.backbone import BACKBONE_FOLDER, build_network, compute_backbone_digest, load_backbone, predict_velocity, read_network_config
from cdm_core.clip import CLIP_FOLDER


def test_every_pixel_value_survives_the_way_through_the_latent() -> None:
    backbone = tiny_backbone()
    pictures = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(1, 3, 32, 32)
    latents = backbone.encode_pictures(pictures)
    assert latents.min() == -1
    assert latents.max() == 1
    assert torch.equal(backbone.decode_latents(latents), pictures)


def test_latents_beyond_the_range_are_clamped() -> None:
    beyond = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])
    assert tiny_backbone().decode_latents(beyond).tolist() == [0, 0, 128, 255, 255]


def test_the_shipped_backbone_is_frozen_and_answers() -> None:
    backbone = load_backbone()
    assert backbone.latent_shape == (3, 32, 32)
    assert not backbone.network.training
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())
    assert {parameter.dtype for parameter in backbone.network.parameters()} == {torch.float32}
    x, t = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.9])
    velocity = predict_velocity(backbone.network, x, t, backbone.encode_captions(["red heart", ""]))
    assert velocity.shape == x.shape
    assert bool(velocity.isfinite().all())


def test_time_and_caption_reach_the_prediction() -> None:
    backbone = tiny_backbone()
    x = torch.randn(1, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    velocities = [
        predict_velocity(backbone.network, x, torch.tensor([t]), backbone.encode_captions([caption]))
        for t, caption in [(0.5, "cat"), (0.6, "cat"), (0.5, "dog")]
    ]
    assert not torch.equal(velocities[0], velocities[1])
    assert not torch.equal(velocities[0], velocities[2])


def test_adapters_reach_convolutions_attention_and_feed_forward_of_the_shipped_network() -> None:
    backbone = load_backbone()
    model = attach_adapter(backbone, 1)
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert {"to_q", "to_k", "to_v", "0", "proj", "2", "conv1", "conv2", "conv_shortcut", "conv_in", "conv_out"} == adapted
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("weights")
    shutil.copytree(BACKBONE_FOLDER, folder / "backbone")
    shutil.copytree(CLIP_FOLDER, folder / "clip")
    return folder / "backbone", folder / "clip"


def test_the_digest_follows_content_and_not_place(copied: tuple[Path, Path]) -> None:
    assert compute_backbone_digest(*copied) == compute_backbone_digest() == load_backbone().digest


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (0, "config.json"),
        (0, "diffusion_pytorch_model.safetensors"),
        (1, "open_clip_config.json"),
        (1, "open_clip_model.safetensors"),
        (1, "bpe_merges.txt.gz"),
    ],
)
def test_one_changed_byte_in_any_file_changes_the_digest(copied: tuple[Path, Path], folder: int, name: str) -> None:
    path = copied[folder] / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert compute_backbone_digest(*copied) != compute_backbone_digest()
    finally:
        path.write_bytes(content)


def test_a_network_is_built_from_its_config() -> None:
    config = read_network_config()
    assert config["_class_name"] == "UNet2DConditionModel"
    shipped = load_backbone().network.state_dict()
    assert {name: tensor.shape for name, tensor in build_network(config).state_dict().items()} == {
        name: tensor.shape for name, tensor in shipped.items()
    }
