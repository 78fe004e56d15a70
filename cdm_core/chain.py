"""The checkpoint chain of a shard: each stage's key names everything that its adapter is a function of.

key_r = H(key_{r−1} ‖ position ‖ digest of stage r's samples ‖ stage r's epochs ‖ other settings ‖ backbone ‖ fingerprint). A deletion
changes the samples of the stages it hits, hence their keys and those of all later stages: a tainted checkpoint can't be found, and the
longest prefix of keys that the store holds is the last clean checkpoint. Keys are on content, never on indices: the reference SISA code
hashes slice indices, and deleting a tail point can leave every hash unchanged.
"""

from collections.abc import Callable, Sequence

from cdm_core.digests import Digest, Json, json_digest
from cdm_core.fingerprint import Fingerprint
from cdm_core.settings import TrainingSettings


def compute_chain(
    shard: int, stage_digests: Sequence[Digest], settings: TrainingSettings, backbone: Digest, fingerprint: Fingerprint
) -> list[Digest]:
    """One key a stage; `stage_digests` are the digests of each stage's samples, in training order of the stages."""
    context = json_digest({"settings": settings.model_dump(exclude={"epochs"}), "backbone": backbone, "fingerprint": fingerprint.digest})
    keys: list[Digest] = []
    for stage, samples in enumerate(stage_digests):
        previous = keys[-1] if keys else None
        own: dict[str, Json] = {"shard": shard, "stage": stage, "samples": samples, "epochs": settings.stage_epochs(stage)}
        keys.append(json_digest({"previous": previous, **own, "context": context}))
    return keys


def num_reusable_stages(keys: Sequence[Digest], is_stored: Callable[[Digest], bool]) -> int:
    """How many leading stages the store holds: training starts after them."""
    for stage, key in enumerate(keys):
        if not is_stored(key):
            return stage
    return len(keys)


def first_changed_stage(before: Sequence[Digest], after: Sequence[Digest]) -> int | None:
    """The first stage whose key a deletion changes; None when it changes none.

    Raises:
        ValueError: the chains differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"chains of {len(before)} and {len(after)} stages can't be compared")
    return next((stage for stage, (old, new) in enumerate(zip(before, after, strict=True)) if old != new), None)
