"""The parameters of a workspace, parsed once from the contents of `params.yaml`.

Pydantic guards the door since a person edits the file; inside, each component takes its own frozen part.
"""

from functools import lru_cache
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _check_epochs(value: object) -> int | list[int]:
    if isinstance(value, int) and _is_count(value):
        return value
    if isinstance(value, list) and value and all(_is_count(number) for number in value):
        return value
    raise PydanticCustomError("epochs", "must be a whole number from 1, or a list of one such number a stage")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


Epochs = Annotated[int | list[int], PlainValidator(_check_epochs)]


class TrainingSettings(_Section):
    """One shard's adapter; a stage makes `epochs` passes over its samples: one number for all stages, or one a stage."""

    rank: int = Field(ge=1, le=128)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    epochs: Epochs
    caption_dropout: float = Field(ge=0, lt=1)

    def stage_epochs(self, stage: int) -> int:
        """The passes of one stage."""
        return self.epochs if isinstance(self.epochs, int) else self.epochs[stage]


class TierSettings(_Section):
    """`rate`: deletions a year per owner; `share`: weight in drawing the tier of owners who declare none."""

    rate: float = Field(gt=0)
    share: float = Field(ge=0)


class SamplingSettings(_Section):
    """Steps from noise to picture, and how experts are mixed.

    Sampler and prior are left out of documents where they are the default, so that compositions keep the digests that they had before there
    was a choice.
    """

    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=1)
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

    centroids: int = Field(ge=1)
    temperature: float = Field(gt=0)


class EvaluationSettings(_Section):
    """The quality gate: `margin` is the largest tolerated relative rise of the Fréchet distance.

    `membership_samples` erased pictures at most, and as many unseen ones, are looked at by the membership inference of a deletion.
    """

    samples: int = Field(ge=16)
    blocks: int = Field(ge=4)
    margin: float = Field(gt=0)
    seed: int
    inception_weights: str | None
    membership_samples: int = Field(default=32, ge=0, le=1000)


class DuplicateSettings(_Section):
    """Near duplicates: largest distances for one to be listed; of 8 bands, how many must agree for a picture to count as one erased."""

    hash_distance: int = Field(ge=0, le=64)
    clip_distance: float = Field(ge=0, le=2)
    suppressed_bands: int = Field(ge=1, le=8)


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

    contract_days: int = Field(30, ge=1, le=3650)
    contract_extension_days: int = Field(0, ge=0, le=3650)
    voluntary_days: int = Field(90, ge=1, le=3650)
    voluntary_extension_days: int = Field(90, ge=0, le=3650)
    time_zone: str = "UTC"


class ApprovalSettings(_Section):
    """How many people must have signed a plan before it is carried out, and in which roles; `distinct`: no two in one role."""

    required: int = Field(0, ge=0, le=100)
    roles: list[str] = ["data_protection_officer", "model_owner"]
    distinct: bool = True


class Settings(_Section):
    """The whole of `params.yaml`. Without `tiers` (before 0.2) an undeclared owner is in each stage equally likely."""

    shard_ids: list[int] = Field(min_length=1, max_length=1000)
    stages: int = Field(ge=1, le=100)
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
        settings = Settings.model_validate(yaml.safe_load(content))
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidInputError(f"{source}: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # an impossible date, say, or nesting without end
        raise InvalidInputError(f"{source}: not YAML: {error}") from error
    if settings.sampling.method in ("classifier", "top_k:classifier"):
        raise InvalidInputError(
            f"{source}: sampling.method: {settings.sampling.method} is not local, so it can't serve by default; see generate"
        )
    if settings.sampling.prior == "captions":
        raise InvalidInputError(f"{source}: sampling.prior: captions are no part of a model, so it can't serve by default; see generate")
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
