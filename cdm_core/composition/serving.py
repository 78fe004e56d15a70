"""A composed model, ready to make pictures: composition document and adapter files in, pictures out.

Every file is checked against the digest that the composition names before it's used; an adapter that the composition doesn't list is
never loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load

from cdm_core.adapters import AdapterTensors, adapter_from_bytes, adapter_rank, merge_adapter
from cdm_core.backbone import Backbone, load_backbone
from cdm_core.composition.document import Composition, parse_composition
from cdm_core.composition.mixing import BareBackbone, Condition, Mixer, build_mixer
from cdm_core.composition.sampling import bind, evaluate_together, sample_latents, sample_protected
from cdm_core.composition.stacking import StackedExperts
from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.evaluation.attribution import Credit, LogSnrDistribution, PathCredit, estimate_credit, follow_path
from cdm_core.methods.classifier import Classifier, ClassifierSettings, load_classifier
from cdm_core.methods.shard_per_image import ShardPerImage
from cdm_core.settings import Method

CENTROIDS_NAME = "centroids"
DENSE_METHODS: tuple[Method, ...] = ("knn", "average", "bayes", "top_k:knn", "top_k:average", "top_k:bayes")
"""Those that need every expert, at every step or until they are gated, so that stacking pays."""
PICTURE_LOG_SNR = LogSnrDistribution(loc=0.25, scale=1.72)
"""`fit_log_snr` of 256 pictures that the bare backbone made from seeds 0 to 255: public, and no owner's data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedModel:
    """Experts in the composition's order; with no expert the bare backbone is the only one."""

    composition: Composition
    backbone: Backbone
    experts: tuple[torch.nn.Module, ...]
    mixer: Mixer
    stacked: StackedExperts | None = None

    def generate(self, prompts: list[str | None], seeds: list[int], on_step: Callable[[], None] = lambda: None) -> torch.Tensor:
        """Pictures uint8 [B, 3, 32, 32], one a prompt (None or "": unconditional) and seed."""
        return self.backbone.decode_latents(self.sample(prompts, seeds, on_step))

    def sample(self, prompts: list[str | None], seeds: list[int], on_step: Callable[[], None] = lambda: None) -> torch.Tensor:
        """Latents of the pictures."""
        condition, sampling = _condition(prompts, seeds), self.composition.sampling
        if self.is_protected:
            shares_N = torch.full((len(self.experts),), 1 / len(self.experts))
            return sample_protected(self.backbone, self.experts, shares_N, condition, sampling, on_step).latents
        return sample_latents(self.backbone, self.experts, self.mixer, condition, sampling, on_step, self.stacked)

    @property
    def is_protected(self) -> bool:
        """Whether pictures are drawn from a product of experts."""
        return self.composition.sampling.method == "cp_delta" and bool(self.composition.experts)

    def credit(self, latents_BCHW: torch.Tensor, prompts: list[str | None], *, num_draws: int) -> Credit:
        """How much of each picture is each expert's, by common noise; a picture's credit doesn't depend on the others."""
        evaluate = self.evaluate(prompts)
        return estimate_credit(evaluate, latents_BCHW, self.priors, PICTURE_LOG_SNR, num_draws=num_draws, seed=0)

    def follow(self, latents_BCHW: torch.Tensor, prompts: list[str | None], *, num_pairs: int, num_probes: int) -> PathCredit:
        """The same by eq. 6 along the path to noise, with the weights on the way, in as many steps as sampling has."""
        return follow_path(
            self.evaluate(prompts),
            latents_BCHW,
            self.priors,
            PICTURE_LOG_SNR,
            steps=self.composition.sampling.steps,
            num_pairs=num_pairs,
            num_probes=num_probes,
            seed=0,
        )

    def evaluate(self, prompts: list[str | None]) -> Callable[[torch.Tensor, float], torch.Tensor]:
        """Every expert's velocity without guidance: guided ones are the score of no density."""
        settings = self.composition.sampling.model_copy(update={"guidance_scale": 1.0})
        condition = _condition(prompts, [0] * len(prompts))
        return evaluate_together(bind(self.backbone, self.experts, condition, settings), len(self.experts))

    @property
    def priors(self) -> torch.Tensor:
        """λ by samples, float64 [N]."""
        counts_N = torch.tensor([float(expert.samples) for expert in self.composition.experts] or [1.0], dtype=torch.float64)
        return counts_N / counts_N.sum()

    def shards_of(self, seeds: list[int], prompts: list[str | None] | None = None) -> list[int | None]:
        """The shard that makes each picture where one alone does (`shard_per_image`), else None."""
        experts = self.composition.experts
        if not experts or not isinstance(self.mixer, ShardPerImage):
            return [None] * len(seeds)
        return [experts[position].shard for position in self.mixer.draw(_condition(prompts or [None] * len(seeds), seeds))]


def _condition(prompts: list[str | None], seeds: list[int]) -> Condition:
    return Condition(captions=[prompt or "" for prompt in prompts], seeds=seeds)


def load_composed_model(
    composition: bytes,
    adapters: Mapping[int, Path],
    centroids: Mapping[int, Path] | None = None,
    backbone: Backbone | None = None,
    classifier: Path | None = None,
    caption_counts: Mapping[int, Mapping[str, int]] | None = None,
    merge: Callable[[Digest, AdapterTensors], torch.nn.Module] | None = None,
) -> ComposedModel:
    """Assemble a model from its document and files (`adapters` and `centroids` by shard; centroids are read where they are needed).

    `caption_counts`, shard → caption → samples, are for the prior "captions" alone.

    `merge` makes an expert of a verified adapter and its digest: for who assembles many models of the same adapters, and keeps experts.

    Raises:
        VerificationError: a file is missing or isn't the one that the document names, or the backbone is another one.
        StateError: `knn` or the prior "clip" is asked for, and a shard has no centroids for now; the prior "captions" without counts; or
            `classifier`, and the document names none.
    """
    document = parse_composition(composition)
    backbone = backbone or load_backbone()
    if backbone.digest != document.backbone:
        raise VerificationError("composition: made for another backbone than the one installed")
    contents = [read_verified(adapters, expert.shard, expert.adapter, "adapter") for expert in document.experts]
    tensors = [adapter_from_bytes(content) for content in contents]
    merge = merge or (lambda digest, adapter: merge_adapter(backbone, adapter))
    experts = tuple(merge(expert.adapter, adapter) for expert, adapter in zip(document.experts, tensors, strict=True))
    if not experts:
        return ComposedModel(composition=document, backbone=backbone, experts=(backbone.network,), mixer=BareBackbone())
    method = document.sampling.method.removeprefix("top_k:")
    points: dict[Digest, torch.Tensor] = {}
    prior = document.sampling.prior
    if prior == "captions" and caption_counts is None:
        raise StateError("prior captions: a model holds no captions; use lethe generate in the workspace")
    if method == "knn" or prior == "clip":
        what, other = ("knn", "method") if method == "knn" else (f"prior {prior}", "prior")
        for expert in document.experts:
            if expert.centroids is None:
                raise StateError(f"{what}: shard {expert.shard} has no centroids while it is stopped; use another {other}")
            points[expert.centroids] = load(read_verified(centroids or {}, expert.shard, expert.centroids, "centroids"))[CENTROIDS_NAME]
    network = _load_classifier(document, backbone, classifier) if method == "classifier" else None
    # A product of experts is no mixture, and never asks its mixer.
    mixer: Mixer = BareBackbone() if method == "cp_delta" else build_mixer(document, backbone, points, network, caption_counts)
    is_dense = document.sampling.method in DENSE_METHODS
    stacked = StackedExperts(backbone, tensors) if is_dense and is_stackable(tensors) else None
    return ComposedModel(composition=document, backbone=backbone, experts=experts, mixer=mixer, stacked=stacked)


def is_stackable(adapters: Sequence[AdapterTensors]) -> bool:
    """More than one, and all of one rank."""
    return len(adapters) > 1 and len({adapter_rank(adapter) for adapter in adapters}) == 1


def _load_classifier(document: Composition, backbone: Backbone, path: Path | None) -> Classifier:
    if document.classifier is None:
        raise StateError("classifier: it has seen every shard, and this composition leaves one out or names none; use another method")
    if path is None or not path.is_file():
        raise VerificationError(f"classifier: no file for digest {document.classifier[:12]}")
    content = path.read_bytes()
    if sha256_digest(content) != document.classifier:
        raise VerificationError(f"classifier: {path.name} is not the file of digest {document.classifier[:12]}")
    return load_classifier(backbone, content, document.shards, ClassifierSettings())


def read_verified(files: Mapping[int, Path], shard: int, digest: Digest, kind: str) -> bytes:
    """A shard's file, if its bytes have the digest.

    Raises:
        VerificationError: it's missing or differs.
    """
    path = files.get(shard)
    if path is None or not path.is_file():
        raise VerificationError(f"{kind} of shard {shard}: no file for digest {digest[:12]}")
    content = path.read_bytes()
    if sha256_digest(content) != digest:
        raise VerificationError(f"{kind} of shard {shard}: {path.name} is not the file of digest {digest[:12]}")
    return content
