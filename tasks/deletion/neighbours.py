"""Nearest neighbours in a forget flow: the evaluation pictures of both sides against the hit shards' pictures, the erased among them.

An erased picture that another owner still has, in whatever shard, isn't looked for: the model after may show it.
"""

import torch

from cdm_core.composition.document import Composition
from cdm_core.errors import LetheError
from cdm_core.evaluation.neighbours import Neighbours, compare_neighbours
from tasks.data.erased_pictures import ErasedSample, Erasure, load_erased
from tasks.data.manifest_store import load_manifest, load_manifests
from tasks.data.packs import load_pictures
from tasks.models.evaluation import PictureRequest, load_generated
from tasks.workspace import Workspace


def find_neighbours(
    ws: Workspace, erasure: Erasure, before: Composition, candidate: Composition, pictures: list[PictureRequest]
) -> Neighbours | str:
    """Run it in a process of one thread."""
    gone = _gone_everywhere(ws, erasure)
    if not gone:
        return "every erased picture is still there under another owner"
    try:
        erased = load_erased(ws, erasure.revision, gone).pictures
        kept = torch.cat([load_pictures(ws, load_manifest(ws, shard)) for shard in erasure.shards])
        made, remade = (load_generated(ws, composition, pictures)[0] for composition in (before, candidate))
    except LetheError:
        return "the erased pictures or the evaluation pictures couldn't be read any more"
    return compare_neighbours(made, remade, erased, kept) or "no evaluation picture differs between before and after"


def _gone_everywhere(ws: Workspace, erasure: Erasure) -> list[ErasedSample]:
    """In the plan's order."""
    still = {sample_id for manifest in load_manifests(ws).values() for sample_id in manifest["sample_id"]}
    return [sample for sample in erasure.samples if sample.sample_id not in still]
