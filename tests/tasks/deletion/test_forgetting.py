"""What training took counts the stages that an attempt finished before it was cut short."""

from pathlib import Path

from cdm_core.digests import sha256_digest
from tasks.deletion.forgetting import training_seconds
from tasks.ledger.case import Case
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import TrainedShard
from tasks.workspace import Workspace

KEYS = tuple(sha256_digest(f"stage {stage}".encode()) for stage in range(4))


def test_the_stages_of_an_attempt_that_was_cut_short_are_counted_and_those_before_it_not(tmp_path: Path) -> None:
    case = Case(Workspace(tmp_path), "r-1")
    case.finish("training", {"stages_reused": {"5": 1}, "steps": 30})
    for stage, key in enumerate(KEYS):
        CheckpointStore(case.ws.checkpoints).write(key, b"adapter", shard=5, stage=stage, seconds=10.0**stage)
    trained = TrainedShard(
        shard=5, samples=9, adapter=sha256_digest(b"adapter"), chain=KEYS, stages_reused=3, steps=10, steps_full=40, seconds=0.5
    )
    assert training_seconds(case, [trained]) == 10 + 100 + 0.5
