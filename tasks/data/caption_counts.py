"""How many samples of each caption a shard holds today: the conditional priors λ(c) = n_{i,c} / Σ_j n_{j,c}.

They are read from the manifests when they are asked for, and kept nowhere, so that a deletion leaves no count behind.
"""

from collections.abc import Mapping

from cdm_core.composition.document import Composition
from cdm_core.errors import StateError
from tasks.data.manifest_store import load_manifest
from tasks.workspace import Workspace


def count_captions(ws: Workspace, composition: Composition) -> Mapping[int, Mapping[str, int]]:
    """Shard → caption → samples, of the composition's shards alone: no other manifest is read.

    Raises:
        StateError: an adapter was trained on another number of samples than its shard holds, as while a deletion is under way.
    """
    counts: dict[int, Mapping[str, int]] = {}
    for expert in composition.experts:
        captions = load_manifest(ws, expert.shard)["caption"]
        if len(captions) != expert.samples:
            raise StateError("prior captions: the model that serves is not of today's samples; wait for the flow, or use another prior")
        counts[expert.shard] = {str(caption): int(number) for caption, number in captions.value_counts().items()}
    return counts
