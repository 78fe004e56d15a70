"""What a checkpoint was made of, part by part: why one is reused, and why another had to be made anew.

A checkpoint's key says that something differs (`cdm_core.chain`), not what. Its origin holds the key's parts as digests, and the number
of samples; never a sample id, since the entry may outlive a sample. So of samples only the difference of the counts can be told:
"3 samples gone" may be four gone and one that came.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from cdm_core.digests import Digest, json_digest
from cdm_core.fingerprint import Fingerprint
from cdm_core.settings import TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOrigin:
    """The parts of one stage's key; `code` is a part of the fingerprint, and the key of the stage before stands for all before it."""

    previous: Digest | None
    samples: Digest
    num_samples: int
    settings: Digest
    backbone: Digest
    code: Digest
    fingerprint: Digest


def stage_origins(
    keys: Sequence[Digest],
    stages: Iterable[tuple[Digest, int]],
    settings: TrainingSettings,
    backbone: Digest,
    fingerprint: Fingerprint,
) -> list[StageOrigin]:
    """The origins of a chain's stages; `stages` are each one's sample digest and sample count."""
    return [
        StageOrigin(
            previous=previous,
            samples=samples,
            num_samples=num_samples,
            settings=json_digest(settings.model_dump()),
            backbone=backbone,
            code=fingerprint.code,
            fingerprint=fingerprint.digest,
        )
        for previous, (samples, num_samples) in zip([None, *keys[:-1]], stages, strict=True)
    ]


def explain_reuse(origin: StageOrigin) -> str:
    """Why a stage whose key is in the store isn't trained."""
    return f"reused: same {_count(origin.num_samples)}, config, backbone, code"


def explain_rebuild(origin: StageOrigin, stored: Iterable[StageOrigin]) -> str:
    """Why a stage whose key isn't in the store is trained: how it differs from the most similar checkpoint of its shard and stage."""
    nearest = max(stored, key=lambda other: _similarity(origin, other), default=None)
    if nearest is None:
        return "built: no earlier checkpoint of this stage is kept"
    changes = [change for change in (_samples_change(origin, nearest), *_other_changes(origin, nearest)) if change]
    if not changes:
        changes = ["an earlier stage changed" if origin.previous != nearest.previous else "its checkpoint is gone or damaged"]
    return f"rebuilt: {', '.join(changes)}"


def _similarity(origin: StageOrigin, other: StageOrigin) -> tuple[int, int]:
    """Equal parts first, then the nearer count."""
    equal = sum(getattr(origin, part.name) == getattr(other, part.name) for part in fields(StageOrigin))
    return equal, -abs(origin.num_samples - other.num_samples)


def _samples_change(now: StageOrigin, before: StageOrigin) -> str | None:
    gone = before.num_samples - now.num_samples
    if now.samples == before.samples:
        return None
    if gone == 0:
        return "other samples"
    return f"{_count(gone)} gone" if gone > 0 else f"{_count(-gone)} new"


def _other_changes(now: StageOrigin, before: StageOrigin) -> list[str]:
    changes = [
        f"other {name}"
        for name, part in (("config", "settings"), ("backbone", "backbone"), ("code", "code"))
        if getattr(now, part) != getattr(before, part)
    ]
    if now.code == before.code and now.fingerprint != before.fingerprint:
        changes.append("other libraries or machine")
    return changes


def _count(number: int) -> str:
    return f"{number} sample{'' if number == 1 else 's'}"
