"""The parameters of a workspace, parsed once from the contents of `params.yaml`.

Pydantic guards the door since a person edits the file; inside, each component takes its own frozen part.
"""

from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdm_core.errors import InvalidInputError
from cdm_core.partition import Partition

Method = Literal["shard_per_image", "knn", "average", "random"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingSettings(_Section):
    """One shard's adapter; every stage makes `epochs` passes over its samples."""

    rank: int = Field(ge=1, le=128)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    epochs: int = Field(ge=1)
    caption_dropout: float = Field(ge=0, lt=1)


class SamplingSettings(_Section):
    """Euler steps along the linear path, and how experts are mixed."""

    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=1)
    method: Method


class KnnSettings(_Section):
    """k-means centroids a shard, and the temperature of the softmax over squared distances."""

    centroids: int = Field(ge=1)
    temperature: float = Field(gt=0)


class EvaluationSettings(_Section):
    """The quality gate: `margin` is the largest tolerated relative rise of the Fréchet distance."""

    samples: int = Field(ge=16)
    blocks: int = Field(ge=4)
    margin: float = Field(gt=0)
    seed: int
    inception_weights: str | None


class TermsSettings(_Section):
    """Days of the periods that no law sets, and the zone whose calendar days count; see `cdm_core.clocks`."""

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
    """The whole of `params.yaml`."""

    shard_ids: list[int] = Field(min_length=1, max_length=1000)
    stages: int = Field(ge=1, le=100)
    training: TrainingSettings
    sampling: SamplingSettings
    knn: KnnSettings
    evaluation: EvaluationSettings
    terms: TermsSettings = Field(default_factory=lambda: TermsSettings.model_validate({}))
    approvals: ApprovalSettings = Field(default_factory=lambda: ApprovalSettings.model_validate({}))

    @property
    def partition(self) -> Partition:
        """Shards and stages as a domain value."""
        return Partition(shards=len(self.shard_ids), stages=self.stages)


def parse_settings(content: bytes, source: str) -> Settings:
    """Parse the file's bytes; `source` names it in errors.

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
    if settings.shard_ids != list(range(len(settings.shard_ids))):
        raise InvalidInputError(f"{source}: shard_ids: must count 0, 1, 2 …")
    if settings.evaluation.blocks > settings.evaluation.samples // 2:
        raise InvalidInputError(f"{source}: evaluation.blocks: must be at most half of evaluation.samples")
    num_roles = len(set(settings.approvals.roles))
    if settings.approvals.required > (num_roles if settings.approvals.distinct else 100 * num_roles):
        raise InvalidInputError(f"{source}: approvals.required: more than there are roles to give them")
    return settings
