"""The frozen public backbone: a text-conditional velocity model on the linear path, behind an interface that others can take.

x_t = (1 − t)·x_0 + t·ε for t in [0, 1], and the network predicts the velocity v = ε − x_0 (rectified flow, Liu et al. 2022). Every
other parametrisation follows from it: x̂_0 = x_t − t·v and ε̂ = x_t + (1 − t)·v.

`Backbone` says what the rest of Lethe asks of any backbone. `PixelBackbone` is the one shipped here: diffusers'
`UNet2DConditionModel`, the class that Stable Diffusion uses, at 32×32 pixels, reading the CLIP text tower's tokens. A latent
backbone encodes and decodes with its autoencoder; a transformer brings another network: neither changes a caller.

Shape suffixes: B pictures, C channels, H, W latent height and width, L text tokens, D token width.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from cdm_core.clip import CLIP_FOLDER, Clip, load_clip
from cdm_core.digests import Digest, json_digest, sha256_digest

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

BACKBONE_FOLDER = Path(__file__).parent / "weights" / "backbone"
TIME_SCALE = 1000.0
"""diffusers' time embedding expects steps of 0 to 1000."""


class Backbone(Protocol):
    """What adapters, samplers and evaluation need of a backbone."""

    def __hash__(self) -> int:
        """What is made of a backbone may be kept beside it."""

    @property
    def digest(self) -> Digest:
        """Names the weights of everything that enters a prediction."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture's latent."""

    @property
    def network(self) -> torch.nn.Module:
        """The module that adapters attach to; called through `predict_velocity` only."""

    @property
    def adapter_targets(self) -> str:
        """Regular expression over the names of the network's modules that an adapter adapts."""

    def encode_captions(self, captions: list[str]) -> torch.Tensor:
        """Tokens [B, L, D] for cross-attention; the empty caption is the unconditional one."""

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, 32, 32] → float latents [B, C, H, W]."""

    def decode_latents(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Float latents → uint8 [B, 3, 32, 32]."""


def predict_velocity(network: torch.nn.Module, x_BCHW: torch.Tensor, t_B: torch.Tensor, tokens_BLD: torch.Tensor) -> torch.Tensor:
    """v̂(x_t, t, caption), float [B, C, H, W], of a backbone's network, bare or with an adapter attached or merged."""
    velocity: torch.Tensor = network(x_BCHW, t_B * TIME_SCALE, tokens_BLD, return_dict=False)[0]
    return velocity


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelBackbone:
    """A `UNet2DConditionModel` on pixels in [-1, 1] and the CLIP model whose text tower it reads."""

    network: "UNet2DConditionModel"
    clip: Clip
    digest: Digest

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(3, 32, 32)."""
        size = self.network.config.sample_size
        return self.network.config.in_channels, size, size

    @property
    def adapter_targets(self) -> str:
        """Attention projections, feed-forward layers and the residual blocks' convolutions."""
        return r".*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|conv_shortcut|conv_in|conv_out)"

    def encode_captions(self, captions: list[str]) -> torch.Tensor:
        """float [B, 24, 128]."""
        return self.clip.encode_tokens(captions)

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 → [-1, 1]."""
        return pictures.float() / 127.5 - 1

    def decode_latents(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """[-1, 1], clamped → uint8."""
        return ((latents_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def build_network(config: Mapping[str, object]) -> "UNet2DConditionModel":
    """An untrained network of a diffusers `config.json`."""
    from diffusers import UNet2DConditionModel  # imported here, as below: seconds, and who only composes and compares needs none of it

    return UNet2DConditionModel.from_config(dict(config))


def load_backbone(folder: Path = BACKBONE_FOLDER, clip_folder: Path = CLIP_FOLDER) -> PixelBackbone:
    """Load a diffusers folder in float32 and evaluation mode, frozen, in channels-last memory order (faster on the CPU)."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, use_safetensors=True)
    network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return PixelBackbone(network=network, clip=load_clip(clip_folder), digest=compute_backbone_digest(folder, clip_folder))


def compute_backbone_digest(folder: Path = BACKBONE_FOLDER, clip_folder: Path = CLIP_FOLDER) -> Digest:
    """Digest over the digests of the files that a prediction depends on."""
    files = [folder / "config.json", folder / "diffusion_pytorch_model.safetensors"]
    files += [clip_folder / name for name in ("open_clip_config.json", "open_clip_model.safetensors", "bpe_merges.txt.gz")]
    return json_digest({path.name: sha256_digest(path.read_bytes()) for path in files})


def read_network_config(folder: Path = BACKBONE_FOLDER) -> dict[str, object]:
    """The folder's `config.json`."""
    return dict(json.loads((folder / "config.json").read_bytes()))
