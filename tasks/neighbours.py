"""Nearest neighbours in a forget flow: the evaluation pictures of both sides against the hit shards' pictures, the erased among them."""

import torch

from cdm_core.composition import Composition
from cdm_core.errors import LetheError
from cdm_core.neighbours import Neighbours, compare_neighbours
from tasks.case import Case
from tasks.erased_pictures import load_erased
from tasks.evaluation import PictureRequest, load_generated
from tasks.forgetting import kept_plan
from tasks.manifest_store import load_manifest
from tasks.packs import load_pictures
from tasks.planning import ForgetPlan
from tasks.workers import active_pool
from tasks.workspace import Workspace


def look_at_neighbours(case: Case, before: Composition, candidate: Composition, pictures: list[PictureRequest]) -> Neighbours | str:
    """After the evaluation and before the purge, in a worker; the reason where there is no result."""
    planned = case.find("planned")
    assert planned is not None, "a candidate follows a plan"
    arguments = (kept_plan(case), str(planned["dvc_revision"]), before, candidate, pictures)
    return active_pool().submit(find_neighbours, case.ws, *arguments).result()


def find_neighbours(
    ws: Workspace, plan: ForgetPlan, revision: str, before: Composition, candidate: Composition, pictures: list[PictureRequest]
) -> Neighbours | str:
    """Run it in a process of one thread."""
    try:
        erased = load_erased(ws, revision, plan.hits).pictures
        kept = torch.cat([load_pictures(ws, load_manifest(ws, shard.shard)) for shard in plan.shards])
        made, remade = (load_generated(ws, composition, pictures)[0] for composition in (before, candidate))
    except LetheError:
        return "the erased pictures or the evaluation pictures couldn't be read any more"
    return compare_neighbours(made, remade, erased, kept) or "no evaluation picture differs between before and after"
