"""The parameters of a workspace, parsed once from the contents of `params.yaml`.

Pydantic guards the door since a person edits the file; inside, each component takes its own frozen part. A truth value is no number, and
whole numbers have bounds far above what anybody trains with, so that what is past them is refused here and not in the middle of a flow. A
fraction may be text, since YAML 1.1 reads 1e-3 as that.
"""

from functools import lru_cache
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, Strict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cdm_core.errors import InvalidInputError
from cdm_core.sharding.partition import Partition
from cdm_core.sharding.tiers import Tier

Method = Literal[
    "shard_per_image",
    "knn",
    "average",
    "random",
    "bayes",
    "classifier",
    "cp_delta",
    "top_k:knn",
    "top_k:average",
    "top_k:bayes",
    "top_k:classifier",
    "top_k:shard_per_image",
    "top_k:random",
]
PriorName = Literal["counts", "captions", "clip"]
"""λ by samples, by samples of the same caption, or by a free prompt's nearness to the centroids; see `cdm_core.methods.priors`."""
SamplerName = Literal["euler", "ddim", "dpm_solver", "ddpm"]
STOCHASTIC_METHODS: frozenset[Method] = frozenset({"bayes", "top_k:bayes", "cp_delta"})
"""Need the probability of each step, hence `ddpm`."""
METHODS_WITH_PRIORS: tuple[Method, ...] = ("shard_per_image", "knn", "bayes")
"""Those whose weights start from a λ that may depend on the prompt."""
_MAX_COUNT = 1_000_000
_MAX_EXACT = 2**53 - 1
"""The largest whole number that every reader of JSON takes alike."""


def has_prior(method: Method, prior: PriorName) -> bool:
    """Whether a method can be asked for with that prior; the counts are what a method has that asks for none."""
    return prior == "counts" or method.removeprefix("top_k:") in METHODS_WITH_PRIORS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _check_epochs(value: object) -> int | list[int]:
    if isinstance(value, int) and _is_count(value):
        return value
    if isinstance(value, list) and value and all(_is_count(number) for number in value):
        return value
    raise PydanticCustomError("epochs", f"must be a whole number from 1 to {_MAX_COUNT}, or a list of one such number a stage")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_COUNT


def _refuse_truth(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a valid number")
    return value


Whole = Annotated[int, Strict()]
Number = Annotated[float, BeforeValidator(_refuse_truth)]
Epochs = Annotated[int | list[int], PlainValidator(_check_epochs)]


class TrainingSettings(_Section):
    """One shard's adapter; a stage makes `epochs` passes over its samples: one number for all stages, or one a stage."""

    rank: Whole = Field(ge=1, le=128)
    learning_rate: Number = Field(gt=0)
    batch_size: Whole = Field(ge=1, le=_MAX_COUNT)
    epochs: Epochs
    caption_dropout: Number = Field(ge=0, lt=1)

    def stage_epochs(self, stage: int) -> int:
        """The passes of one stage."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[stage]


class TierSettings(_Section):
    """`rate`: deletions a year per owner; `share`: weight in drawing the tier of owners who declare none."""

    rate: Number = Field(gt=0)
    share: Number = Field(ge=0)


class SamplingSettings(_Section):
    """Steps from noise to picture, and how experts are mixed.

    Sampler and prior are left out of documents where they are the default, so that compositions keep the digests that they had before there
    was a choice.
    """

    steps: Whole = Field(ge=1, le=1000)
    guidance_scale: Number = Field(ge=1)
    method: Method
    sampler: SamplerName = Field(default="euler", exclude_if=lambda sampler: sampler == "euler")
    prior: PriorName = Field(default="counts", exclude_if=lambda prior: prior == "counts")

    @model_validator(mode="after")
    def _check_sampler(self) -> "SamplingSettings":
        if self.method in STOCHASTIC_METHODS and self.sampler != "ddpm":
            raise ValueError(f"method {self.method} needs the stochastic sampler, ddpm, not {self.sampler}")
        return self


class KnnSettings(_Section):
    """k-means centroids a shard, and the temperature of the softmax over squared distances."""

    centroids: Whole = Field(ge=1, le=_MAX_COUNT)
    temperature: Number = Field(gt=0)


class EvaluationSettings(_Section):
    """The quality gate: `margin` is the largest tolerated relative rise of the Fréchet distance.

    `membership_samples` erased pictures at most, and as many unseen ones, are looked at by the membership inference of a deletion.
    """

    samples: Whole = Field(ge=16, le=_MAX_COUNT)
    blocks: Whole = Field(ge=4, le=_MAX_COUNT)
    margin: Number = Field(gt=0)
    seed: Whole = Field(ge=-_MAX_EXACT, le=_MAX_EXACT)
    inception_weights: str | None
    membership_samples: Whole = Field(default=32, ge=0, le=1000)


class DuplicateSettings(_Section):
    """Near duplicates: largest distances for one to be listed; of 8 bands, how many must agree for a picture to count as one erased."""

    hash_distance: Whole = Field(ge=0, le=64)
    clip_distance: Number = Field(ge=0, le=2)
    suppressed_bands: Whole = Field(ge=1, le=8)


class TimestampingSettings(_Section):
    """An RFC 3161 authority: reached at `url`, or by `command`, in which {query} and {reply} stand for files; paths are the workspace's."""

    name: str = Field(min_length=1, max_length=256)
    certificate: str
    url: str | None = Field(default=None, pattern="^https?://")
    command: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.url is None) == (self.command is None):
            raise ValueError("give either url or command")
        return self


class IntakeSettings(_Section):
    """`business` is the name by which senders know us: DRP's business-id, OpenDSR's processor domain.

    `callbacks`: whether the addresses that senders name are told of a request's progress.
    """

    business: str = Field(default="lethe.example", min_length=1, max_length=253)
    callbacks: bool = False


class TermsSettings(_Section):
    """Days of the periods that no law sets, and the zone whose calendar days count; see `cdm_core.intake.clocks`."""

    contract_days: Whole = Field(30, ge=1, le=3650)
    contract_extension_days: Whole = Field(0, ge=0, le=3650)
    voluntary_days: Whole = Field(90, ge=1, le=3650)
    voluntary_extension_days: Whole = Field(90, ge=0, le=3650)
    time_zone: str = "UTC"


class ApprovalSettings(_Section):
    """How many people must have signed a plan before it is carried out, and in which roles; `distinct`: no two in one role."""

    required: Whole = Field(0, ge=0, le=100)
    roles: list[str] = ["data_protection_officer", "model_owner"]
    distinct: bool = True


class Settings(_Section):
    """The whole of `params.yaml`. Without `tiers` (before 0.2) an undeclared owner is in each stage equally likely."""

    shard_ids: list[Whole] = Field(min_length=1, max_length=1000)
    stages: Whole = Field(ge=1, le=100)
    tiers: dict[str, TierSettings] = {}
    training: TrainingSettings
    sampling: SamplingSettings
    knn: KnnSettings
    evaluation: EvaluationSettings
    duplicates: DuplicateSettings = DuplicateSettings(hash_distance=16, clip_distance=0.2, suppressed_bands=6)
    timestamping: TimestampingSettings | None = None
    intake: IntakeSettings = IntakeSettings()
    terms: TermsSettings = Field(default_factory=lambda: TermsSettings.model_validate({}))
    approvals: ApprovalSettings = Field(default_factory=lambda: ApprovalSettings.model_validate({}))

    @property
    def partition(self) -> Partition:
        """Shards, stages and tiers as a domain value."""
        tiers = (Tier(name=name, rate=tier.rate, share=tier.share) for name, tier in self.tiers.items())
        return Partition(shards=len(self.shard_ids), stages=self.stages, tiers=tuple(tiers))


@lru_cache(maxsize=4)
def parse_settings(content: bytes, source: str) -> Settings:
    """Parse the file's bytes; `source` names it in errors. Kept, since every step of a flow asks again.

    Raises:
        InvalidInputError: not YAML, or a value that is missing, unknown or out of range.
    """
    try:
        settings = Settings.model_validate(_load_yaml(content, source))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidInputError(f"{source}: {where}: {first['msg']}") from error
    if settings.sampling.method in ("classifier", "top_k:classifier"):
        raise InvalidInputError(
            f"{source}: sampling.method: {settings.sampling.method} is not local, so it can't serve by default; see generate"
        )
    if settings.sampling.prior == "captions":
        raise InvalidInputError(f"{source}: sampling.prior: captions are no part of a model, so it can't serve by default; see generate")
    method, prior = settings.sampling.method, settings.sampling.prior
    if not has_prior(method, prior):
        able = ", ".join(METHODS_WITH_PRIORS)
        raise InvalidInputError(f"{source}: sampling.prior: {prior}: method {method} has no such thing; {able} do")
    if settings.shard_ids != list(range(len(settings.shard_ids))):
        raise InvalidInputError(f"{source}: shard_ids: must count 0, 1, 2 …")
    if settings.evaluation.blocks > settings.evaluation.samples // 2:
        raise InvalidInputError(f"{source}: evaluation.blocks: must be at most half of evaluation.samples")
    epochs = settings.training.epochs
    if isinstance(epochs, list) and len(epochs) != settings.stages:
        raise InvalidInputError(f"{source}: training.epochs: names {len(epochs)} stages; stages: is {settings.stages}")
    try:
        _ = settings.partition
    except InvalidInputError as error:
        raise InvalidInputError(f"{source}: {error}") from error
    num_roles = len(set(settings.approvals.roles))
    if settings.approvals.required > (num_roles if settings.approvals.distinct else 100 * num_roles):
        raise InvalidInputError(f"{source}: approvals.required: more than there are roles to give them")
    return settings


def _load_yaml(content: bytes, source: str) -> object:
    """PyYAML's constructors raise whatever Python does for a value that isn't what its tag says."""
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    except (ValueError, RecursionError) as error:  # an impossible date, say, or nesting without end
        raise InvalidInputError(f"{source}: not YAML: {error}") from error
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise InvalidInputError(f"{source}: not YAML: a value is not what its tag says") from error
