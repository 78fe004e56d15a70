"""A composition: which adapters make up a model, as a small JSON document whose digest is the model's name.

It lists only what sampling may use. A shard that isn't listed can't influence a pixel: a deletion, a stop and an access right are all
the same operation, another list. Sample counts are those that each adapter was trained on, so that the mixture's prior
λ_i = n_i / Σ n_j is exact after a deletion (paper eq. 3).
"""

from dataclasses import dataclass, replace
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from cdm_core.digests import Digest, Json, canonical_json, sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.settings import METHODS_WITH_PRIORS, STOCHASTIC_METHODS, Method, PriorName, SamplerName, SamplingSettings, has_prior

_SCHEMA = "lethe/composition/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One shard's part: its adapter, how many samples that was trained on, and their CLIP centroids (None: not known, so no `knn`)."""

    shard: int
    adapter: Digest
    samples: int
    centroids: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """Experts in ascending order of shard; with none of them the bare backbone serves."""

    backbone: Digest
    experts: tuple[Expert, ...]
    sampling: SamplingSettings
    knn_temperature: float
    classifier: Digest | None = None
    """File of the non-local method's network, named only where that method is used."""

    def __post_init__(self) -> None:
        shards = [expert.shard for expert in self.experts]
        if shards != sorted(set(shards)):
            raise ValueError("experts must be in ascending order of shard, each once")
        if any(expert.samples < 1 for expert in self.experts):
            raise ValueError("an expert trained on no sample has no place in a composition")

    @property
    def shards(self) -> tuple[int, ...]:
        """Shard numbers that sampling may use."""
        return tuple(expert.shard for expert in self.experts)

    @property
    def is_one_expert_a_seed(self) -> bool:
        """Whether one expert alone makes a picture, and which one follows from the seed."""
        return bool(self.experts) and self.sampling.method == "shard_per_image" and self.sampling.prior == "counts"

    @property
    def digest(self) -> Digest:
        """The model's name."""
        return sha256_digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON."""
        experts = [
            {"shard": expert.shard, "adapter": expert.adapter, "samples": expert.samples, "centroids": expert.centroids}
            for expert in self.experts
        ]
        document: dict[str, Json] = {
            "schema": _SCHEMA,
            "backbone": self.backbone,
            "experts": experts,
            "sampling": self.sampling.model_dump(),
            "knn_temperature": self.knn_temperature,
        }
        if self.classifier is not None:
            document["classifier"] = self.classifier
        return canonical_json(document)

    def restricted_to(self, shards: list[int]) -> "Composition":
        """The composition of some of its shards only.

        Raises:
            InvalidInputError: a shard is not in it.
        """
        unknown = sorted(set(shards) - set(self.shards))
        if unknown:
            raise InvalidInputError(f"shard {unknown[0]} is not in the composition; it has {list(self.shards)}")
        kept = tuple(expert for expert in self.experts if expert.shard in shards)
        # A classifier has seen every shard, so one that is left out would still have a say.
        return replace(self, experts=kept, classifier=self.classifier if kept == self.experts else None)

    def with_method(self, method: Method, sampler: SamplerName | None = None) -> "Composition":
        """The same experts, mixed another way; a method that needs the stochastic sampler brings it unless another one is named.

        Raises:
            InvalidInputError: the named sampler is not one that the method can work with.
        """
        needed = sampler or ("ddpm" if method in STOCHASTIC_METHODS else self.sampling.sampler)
        if method in STOCHASTIC_METHODS and needed != "ddpm":
            raise InvalidInputError(f"method {method} needs the stochastic sampler, ddpm, not {needed}")
        return replace(self, sampling=self.sampling.model_copy(update={"method": method, "sampler": needed}))

    def with_prior(self, prior: PriorName) -> "Composition":
        """The same experts, with another λ.

        Raises:
            InvalidInputError: the method asks for none but the counts.
        """
        method = self.sampling.method
        if not has_prior(method, prior):
            raise InvalidInputError(f"prior {prior}: method {method} has no such thing; {', '.join(METHODS_WITH_PRIORS)} do")
        return replace(self, sampling=self.sampling.model_copy(update={"prior": prior}))

    def with_classifier(self, classifier: Digest) -> "Composition":
        """The same experts, weighted by a trained network."""
        return replace(self, classifier=classifier)


def parse_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InvalidInputError: there is none.
    """
    for method in get_args(Method):
        if method == name:
            return method  # type: ignore[no-any-return]  # get_args is untyped
    raise InvalidInputError(f"method {name!r} is not one of {', '.join(get_args(Method))}")


def parse_sampler(name: str) -> SamplerName:
    """The sampler of that name.

    Raises:
        InvalidInputError: there is none.
    """
    for sampler in get_args(SamplerName):
        if sampler == name:
            return sampler  # type: ignore[no-any-return]  # get_args is untyped
    raise InvalidInputError(f"sampler {name!r} is not one of {', '.join(get_args(SamplerName))}")


def parse_prior(name: str) -> PriorName:
    """The prior of that name.

    Raises:
        InvalidInputError: there is none.
    """
    for prior in get_args(PriorName):
        if prior == name:
            return prior  # type: ignore[no-any-return]  # get_args is untyped
    raise InvalidInputError(f"prior {name!r} is not one of {', '.join(get_args(PriorName))}")


def parse_composition(content: bytes) -> Composition:
    """Read `Composition.to_bytes`.

    Raises:
        VerificationError: the bytes are not a composition document in canonical form.
    """
    try:
        composition = TypeAdapter(Composition).validate_json(content, strict=True)
        canonical = composition.to_bytes()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise VerificationError(f"composition: not a {_SCHEMA} document: {where}: {first['msg']}") from error
    except ValueError as error:  # a number that RFC 8785 doesn't allow
        raise VerificationError(f"composition: not a {_SCHEMA} document: {error}") from error
    # Schema and unknown keys are compared here too: they are no part of a `Composition`.
    if canonical != content:
        raise VerificationError(f"composition: not a {_SCHEMA} document in canonical form")
    return composition
