"""Looking for traces of the erased pictures in a forget flow: what the workers are asked, out of the case.

1. `recall_losses_of`, beside the retraining: losses of the adapters before.
2. `queue_attack`, beside the evaluation: membership inference.
3. `find_neighbours_of`, after it: nearest neighbours of the evaluation pictures.

Where there is nothing to look at, the reason comes in place of a result.
"""

from concurrent.futures import Future

from cdm_core.composition.document import Composition
from cdm_core.evaluation.membership import Membership
from cdm_core.evaluation.neighbours import Neighbours
from tasks.data.erased_pictures import ErasedSample, Erasure
from tasks.deletion.forgetting import kept_plan, served_before
from tasks.deletion.membership import Recalled, attack_candidate, recall_losses
from tasks.deletion.neighbours import find_neighbours
from tasks.ledger.case import Case
from tasks.models.evaluation import PictureRequest
from tasks.training.workers import active_pool


def recall_losses_of(case: Case) -> Recalled:
    """Step 1, after the removal and before the purge."""
    if case.find("decided") is not None:
        return Recalled(reason="it was decided before")
    return active_pool().submit(recall_losses, case.ws, _erasure(case), served_before(case)).result()


def queue_attack(case: Case, candidate: Composition, recalled: Recalled) -> Future[Membership | str]:
    """Step 2, before the purge; queued, so that the one long piece of work comes before the many short ones of evaluation."""
    if recalled.reason is None:
        return active_pool().submit(attack_candidate, case.ws, _erasure(case), served_before(case), candidate, recalled)
    known: Future[Membership | str] = Future()
    known.set_result(recalled.reason)
    return known


def find_neighbours_of(case: Case, before: Composition, candidate: Composition, pictures: list[PictureRequest]) -> Neighbours | str:
    """Step 3, before the purge."""
    return active_pool().submit(find_neighbours, case.ws, _erasure(case), before, candidate, pictures).result()


def _erasure(case: Case) -> Erasure:
    plan, planned = kept_plan(case), case.finished("planned")
    samples = (ErasedSample(sample_id=hit.sample_id, owner_key=hit.owner_key, shard=hit.shard) for hit in plan.hits)
    left = tuple((shard.shard, shard.samples_left) for shard in plan.shards)
    return Erasure(key=plan.request_digest, revision=str(planned["dvc_revision"]), samples=tuple(samples), left=left)
