"""`classifier`: w = softmax of a small network on mid-network features of (x_t, t) (paper sec. 3.4 and 4).

A linear layer and an attention block over the bare backbone's mid-block, trained with cross-entropy on the shard index of noised samples
drawn in proportion to the shards' sizes, so that its softmax is λ_i·p_i(x_t) / Σ_j λ_j·p_j(x_t).

NON-LOCAL: it is the only part of a composition that is trained on several shards at once. Every deletion has to train it again, whichever
shard is hit; `classifier_key` names one by all the samples that it saw, so that a tainted one can't be found.

Shape suffixes: B pictures, N experts, L positions of the feature map, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load, save

from cdm_core.backbone import Backbone, predict_velocity
from cdm_core.digests import Digest, derive_seed, json_digest, sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.fingerprint import Fingerprint, require_one_thread
from cdm_core.methods.interface import Condition, Predictions
from cdm_core.training import StageSamples

_BATCH = 16
_SHARDS = "shards"


class _ReachedError(Exception):
    """The mid-block has answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """Adam steps of `_BATCH` samples each."""

    steps: int = 400
    learning_rate: float = 1e-3
    width: int = 64
    heads: int = 4


class ShardClassifier(torch.nn.Module):
    """Linear layer, attention block, mean, linear head; the last row of tokens says t."""

    def __init__(self, channels: int, num_shards: int, settings: ClassifierSettings) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(channels, settings.width)
        self.time = torch.nn.Linear(1, settings.width)
        self.before = torch.nn.LayerNorm(settings.width)
        self.attention = torch.nn.MultiheadAttention(settings.width, settings.heads, batch_first=True)
        self.after = torch.nn.LayerNorm(settings.width)
        self.head = torch.nn.Linear(settings.width, num_shards)

    def forward(self, features_BLD: torch.Tensor, t_B: torch.Tensor) -> torch.Tensor:
        """Logits float [B, N]."""
        tokens = torch.cat([self.embed(features_BLD), self.time(t_B[:, None])[:, None]], dim=1)
        normal = self.before(tokens)
        tokens = tokens + self.attention(normal, normal, normal, need_weights=False)[0]
        logits: torch.Tensor = self.head(self.after(tokens.mean(dim=1)))
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """The mixer: a trained network and the columns of its output that belong to the composition's experts."""

    backbone: Backbone
    network: ShardClassifier
    columns: tuple[int, ...]

    @torch.no_grad()
    def weights(self, x_BCHW: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        """Softmax over the experts in play, each picture in a batch of one shape."""
        features_BLD = mid_features(self.backbone, x_BCHW, torch.full((len(x_BCHW),), t))
        rows = [self.network(features, torch.full((1,), t)) for features in features_BLD.split(1)]
        logits_BN = torch.cat(rows)[:, list(self.columns)].masked_fill(~predictions.active_BN, -torch.inf)
        return logits_BN.softmax(dim=1)


@torch.no_grad()
def mid_features(backbone: Backbone, x_BCHW: torch.Tensor, t_B: torch.Tensor) -> torch.Tensor:
    """The bare network's mid-block for no caption, float [B, L, D], in batches of one shape."""
    caught: list[torch.Tensor] = []

    def catch(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        caught.append(output.flatten(2).transpose(1, 2))
        raise _ReachedError  # the way up would be half of the cost

    middle = backbone.network.get_submodule("mid_block")
    hook = middle.register_forward_hook(catch)
    padding = -len(x_BCHW) % _BATCH
    x_BCHW = torch.cat([x_BCHW, x_BCHW.new_zeros(padding, *x_BCHW.shape[1:])])
    times_B = torch.cat([t_B, t_B.new_zeros(padding)])
    tokens_BLD = backbone.encode_captions([""]).expand(_BATCH, -1, -1)
    try:
        for x, t in zip(x_BCHW.split(_BATCH), times_B.split(_BATCH), strict=True):
            with suppress(_ReachedError):
                predict_velocity(backbone.network, x.contiguous(memory_format=torch.channels_last), t, tokens_BLD)
    finally:
        hook.remove()
    return torch.cat(caught)[: len(t_B)]


def classifier_key(backbone: Digest, samples: Mapping[int, Digest], settings: ClassifierSettings, fingerprint: Fingerprint) -> Digest:
    """Names a classifier by everything that it is a function of: all shards' samples among it, and this module's own bytes."""
    return json_digest(
        {
            "kind": "classifier/v1",
            "backbone": backbone,
            "samples": {str(shard): digest for shard, digest in samples.items()},
            "settings": asdict(settings),
            "fingerprint": fingerprint.digest,
            "code": sha256_digest(Path(__file__).read_bytes()),
        }
    )


def train_classifier(
    backbone: Backbone,
    shards: Mapping[int, StageSamples],
    settings: ClassifierSettings,
    on_step: Callable[[], None] = lambda: None,
) -> ShardClassifier:
    """Train on (noised sample, shard), samples of all shards alike and t uniform in (0, 1); output column k is the k-th shard in order.

    Raises:
        ValueError: the process runs more than one thread, or there is no sample.
    """
    require_one_thread()
    owners = [column for column, shard in enumerate(sorted(shards)) for _ in shards[shard].sample_ids]
    if not owners:
        raise ValueError("a classifier needs samples")
    latents = torch.cat([backbone.encode_pictures(shards[shard].pictures) for shard in sorted(shards)])
    targets = torch.tensor(owners)
    generator = torch.Generator().manual_seed(derive_seed("classifier"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("classifier", "start"))
        network = ShardClassifier(_mid_width(backbone), len(shards), settings)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    for step in range(settings.steps):
        rows = torch.randint(len(targets), (_BATCH,), generator=generator)
        t_B = torch.rand(_BATCH, generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        features = mid_features(backbone, torch.lerp(latents[rows], noise, t_B[:, None, None, None]), t_B)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        optimiser.zero_grad()
        F.cross_entropy(network(features, t_B), targets[rows]).backward()
        optimiser.step()
        on_step()
    return network.eval().requires_grad_(False)


def classifier_to_bytes(network: ShardClassifier, shards: Sequence[int]) -> bytes:
    """safetensors bytes of the weights and the shards that the columns stand for."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(network.state_dict().items())}
    return save(tensors | {_SHARDS: torch.tensor(sorted(shards))})


def load_classifier(backbone: Backbone, content: bytes, wanted: Sequence[int], settings: ClassifierSettings) -> Classifier:
    """The mixer for the `wanted` shards.

    Raises:
        VerificationError: the bytes are no classifier of these settings, or it never saw one of the shards.
    """
    try:
        tensors = load(content)
        order: list[int] = tensors.pop(_SHARDS).tolist()
        network = ShardClassifier(tensors["embed.weight"].shape[1], tensors["head.weight"].shape[0], settings)
        network.load_state_dict(tensors)
    except Exception as error:  # safetensors raises its own type for every kind of damage
        raise VerificationError(f"classifier: not one of these settings: {str(error).splitlines()[0]}") from error
    if unknown := sorted(set(wanted) - set(order)):
        raise VerificationError(f"classifier: it never saw shard {unknown[0]}")
    columns = tuple(order.index(shard) for shard in wanted)
    return Classifier(backbone=backbone, network=network.eval().requires_grad_(False), columns=columns)


def _mid_width(backbone: Backbone) -> int:
    return mid_features(backbone, torch.zeros(1, *backbone.latent_shape), torch.zeros(1)).shape[2]
