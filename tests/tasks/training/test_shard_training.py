"""Training a shard of a real workspace: the same bytes in any process, found again by key, and clean after a removal."""

import shutil
from pathlib import Path

import pytest
import torch
from quick_settings import set_parameters, use_quick_settings
from small_workspace import OWNERS, SECRET

from cdm_core.adapters import adapter_from_bytes, adapter_to_bytes, attach_adapter, initial_adapter
from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.sharding.manifests import find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.manifest_store import load_manifest, load_manifests
from tasks.data.samples import remove_samples
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import (
    TrainedShard,
    load_stage,
    longest_first,
    plan_chain,
    shared_backbone,
    shared_backbone_digest,
    stage_steps,
    train_shard,
    training_left,
)
from tasks.training.workers import worker_pool
from tasks.workspace import Workspace


@pytest.fixture(scope="module")
def _trained(_small_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedShard]:
    root = tmp_path_factory.mktemp("trained") / "ws"
    shutil.copytree(_small_template, root)
    torch.set_num_threads(1)
    return root, train_shard(use_quick_settings(Workspace(root)), 0)


@pytest.fixture
def trained(_trained: tuple[Path, TrainedShard], tmp_path: Path) -> tuple[Workspace, TrainedShard]:
    """A workspace whose shard 0 is trained, and what training said."""
    shutil.copytree(_trained[0], tmp_path / "ws")
    return Workspace(tmp_path / "ws"), _trained[1]


def owner_in(ws: Workspace, shard: int, *, stage: int | None = None) -> str:
    """The key of an owner of that shard; all samples of an owner are in one stage."""
    manifest = load_manifest(ws, shard)
    return str(manifest[manifest["stage"] == stage if stage is not None else manifest["stage"] >= 0]["owner_key"].iloc[0])


def remove(ws: Workspace, owner_keys: list[str]) -> None:
    remove_samples(ws, find_samples(load_manifests(ws), owner_keys=owner_keys))


def untrained_copy(ws: Workspace, place: Path) -> Workspace:
    shutil.copytree(ws.root, place, ignore=shutil.ignore_patterns("checkpoints", "adapters"))
    return Workspace(place)


def test_a_shard_is_trained_through_its_stages(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, result = trained
    store, manifest = CheckpointStore(ws.checkpoints), load_manifest(ws, 0)
    assert (result.shard, result.samples, result.stages_reused) == (0, 6, 0)
    assert result.steps == result.steps_full == sum(stage_steps(manifest, ws.settings())) == 4
    assert list(result.chain) == plan_chain(manifest, 0, ws.settings())
    assert ws.adapter(0).read_bytes() == store.read(result.chain[-1])
    assert result.adapter == sha256_digest(ws.adapter(0).read_bytes())
    assert {(entry["shard"], entry["stage"]) for entry in store.entries().values()} == {(0, 0), (0, 1)}
    assert 0 < sum(store.seconds(key) for key in result.chain) < result.seconds


def test_of_a_training_that_diverges_nothing_is_stored(trained: tuple[Workspace, TrainedShard], tmp_path: Path) -> None:
    ws = untrained_copy(trained[0], tmp_path / "diverging")
    set_parameters(ws, {"training": {"learning_rate": 1e30}})
    with pytest.raises(InvalidInputError, match=r"^shard 0, stage 0: training diverged: "):
        train_shard(ws, 0)
    assert not CheckpointStore(ws.checkpoints).entries()
    assert not ws.adapter(0).exists()


def test_what_is_trained_already_is_found(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, result = trained
    ws.adapter(0).unlink()
    again = train_shard(ws, 0)
    assert (again.stages_reused, again.steps, again.steps_full) == (2, 0, 4)
    assert again.adapter == result.adapter == sha256_digest(ws.adapter(0).read_bytes())


def test_what_is_left_to_train_is_told_by_what_the_store_holds(trained: tuple[Workspace, TrainedShard], tmp_path: Path) -> None:
    ws, result = trained
    copy = untrained_copy(ws, tmp_path / "copy")
    assert training_left(ws, 0) == (2, 0)
    assert training_left(copy, 0) == (0, 4)
    content = CheckpointStore(ws.checkpoints).read(result.chain[0])
    CheckpointStore(copy.checkpoints).write(result.chain[0], content, shard=0, stage=0)
    assert training_left(copy, 0) == (1, 4 - stage_steps(load_manifest(ws, 0), ws.settings())[0])


def test_the_shard_with_the_most_steps_left_comes_first(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, _ = trained
    settings = ws.settings()
    steps = {shard: sum(stage_steps(load_manifest(ws, shard), settings)) for shard in settings.shard_ids}
    left = steps | {0: 0}  # trained
    assert len(set(left.values())) > 1
    for shards in (settings.shard_ids, settings.shard_ids[::-1]):
        assert [left[shard] for shard in longest_first(ws, shards)] == sorted(left.values(), reverse=True)
    assert longest_first(ws, [0]) == [0]


def test_another_process_makes_the_same_bytes(trained: tuple[Workspace, TrainedShard], tmp_path: Path) -> None:
    ws, result = trained
    copy = untrained_copy(ws, tmp_path / "copy")
    reports: list[tuple[str, int]] = []
    torch.manual_seed(99)
    with worker_pool(1, lambda what, amount: reports.append((what, amount))) as pool:
        elsewhere = pool.submit(train_shard, copy, 0).result()
    assert elsewhere.adapter == result.adapter
    assert elsewhere.chain == result.chain
    assert copy.adapter(0).read_bytes() == ws.adapter(0).read_bytes()
    assert sum(amount for what, amount in reports if what == "steps") == 4


@pytest.mark.parametrize("stage", [0, 1])
def test_after_a_removal_only_what_it_touches_is_trained_and_equals_training_from_nothing(
    trained: tuple[Workspace, TrainedShard], tmp_path: Path, stage: int
) -> None:
    ws, before = trained
    assert stage_of_every_owner(ws) == {0, 1}
    remove(ws, [owner_in(ws, 0, stage=stage)])
    scratch = train_shard(untrained_copy(ws, tmp_path / "scratch"), 0)
    resumed = train_shard(ws, 0)
    assert resumed.stages_reused == stage
    assert scratch.stages_reused == 0
    assert resumed.adapter == scratch.adapter
    assert resumed.chain == scratch.chain
    assert resumed.adapter != before.adapter
    whys = {
        int(str(entry["stage"])): entry["why"] for key, entry in CheckpointStore(ws.checkpoints).entries().items() if key in resumed.chain
    }
    assert whys[stage] == "rebuilt: 3 samples gone"
    assert whys[1] == ("rebuilt: 3 samples gone" if stage else "rebuilt: an earlier stage changed")


def stage_of_every_owner(ws: Workspace) -> set[int]:
    return {int(stage) for stage in load_manifest(ws, 0)["stage"]}


def test_an_emptied_shard_has_its_untrained_adapter(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, _ = trained
    remove(ws, [compute_owner_key(SECRET, owner) for owner in OWNERS])
    result = train_shard(ws, 0)
    assert (result.samples, result.steps, result.steps_full) == (0, 0, 0)
    backbone = shared_backbone()
    assert ws.adapter(0).read_bytes() == adapter_to_bytes(initial_adapter(attach_adapter(backbone, 2), 0))


def test_another_setting_trains_anew(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, before = trained
    set_parameters(ws, {"training": {"learning_rate": 0.002}})
    result = train_shard(ws, 0)
    assert result.stages_reused == 0
    assert not set(result.chain) & set(before.chain)
    assert result.adapter != before.adapter


def test_a_damaged_checkpoint_is_refused(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, result = trained
    CheckpointStore(ws.checkpoints).path(result.chain[-1]).write_bytes(b"damaged")
    with pytest.raises(VerificationError, match="its bytes are not those that were stored"):
        train_shard(ws, 0)


def test_adapters_are_of_the_rank_that_was_asked_for(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, _ = trained
    tensors = adapter_from_bytes(ws.adapter(0).read_bytes())
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {2}


def test_a_stage_is_read_row_by_row(trained: tuple[Workspace, TrainedShard]) -> None:
    ws, _ = trained
    manifest = load_manifest(ws, 0)
    samples = load_stage(ws, manifest.iloc[::-1])
    assert samples.sample_ids == manifest["sample_id"].tolist()[::-1]
    assert samples.captions == manifest["caption"].tolist()[::-1]
    assert torch.equal(samples.pictures.flip(0), load_stage(ws, manifest).pictures)


def test_the_backbone_is_one_a_process() -> None:
    assert shared_backbone() is shared_backbone()
    assert shared_backbone().digest == shared_backbone_digest()
