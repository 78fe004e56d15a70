"""What was removed can be read until it's purged, and what it's compared with never was in the shard."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_workspace import SECRET, sample, train

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import sha256_digest
from cdm_core.errors import StateError
from cdm_core.settings import SamplingSettings
from cdm_core.sharding.manifests import find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_versions import commit_data, commit_training, data_revision
from tasks.data.erased_pictures import ErasedSample, Erasure, load_erased
from tasks.data.manifest_store import load_manifest, load_manifests
from tasks.data.packs import load_pictures
from tasks.data.samples import add_samples, remove_samples
from tasks.deletion.erasure import erase_objects, objects_to_erase
from tasks.deletion.membership import attack_candidate, choose_samples, recall_losses
from tasks.deletion.neighbours import find_neighbours
from tasks.training.shard_training import load_stage
from tasks.workspace import Workspace

ANNA = compute_owner_key(SECRET, "anna")  # shard 0 with Cleo; Ben and Dora are in shard 1
BEN = compute_owner_key(SECRET, "ben")
CLEO = compute_owner_key(SECRET, "cleo")


def composition(*shards: int) -> Composition:
    experts = tuple(Expert(shard=shard, adapter=sha256_digest(b"%d" % shard), samples=3, centroids=None) for shard in shards)
    sampling = SamplingSettings(steps=1, guidance_scale=1.0, method="shard_per_image")
    return Composition(backbone=sha256_digest(b"backbone"), experts=experts, sampling=sampling, knn_temperature=0.05)


@pytest.fixture
def removed(small: Workspace) -> tuple[Workspace, pd.DataFrame, Erasure, torch.Tensor, list[str]]:
    """Anna has left, and one picture of hers is Ben's as well; with the hits, her pictures and her captions."""
    add_samples(small, BEN, 1, 1, [sample(0, "grey of Ben")])
    revision = commit_data(small, [1], "Arrival")
    hits = find_samples(load_manifests(small), owner_keys={ANNA})
    pictures, captions = load_pictures(small, hits), hits["caption"].tolist()
    remove_samples(small, hits)
    commit_data(small, [0], "Forget")
    samples = (ErasedSample(sample_id=row.sample_id, owner_key=row.owner_key, shard=0) for row in hits.itertuples())
    return small, hits, Erasure(key="request", revision=revision, samples=tuple(samples), left=((0, 3),)), pictures, captions


def test_removed_pictures_are_read_from_the_cache_until_they_are_purged(
    removed: tuple[Workspace, pd.DataFrame, Erasure, torch.Tensor, list[str]],
) -> None:
    ws, hits, erasure, pictures, captions = removed
    loaded = load_erased(ws, erasure.revision, erasure.samples)
    assert loaded.sample_ids == hits["sample_id"].tolist()
    assert loaded.captions == captions
    assert torch.equal(loaded.pictures, pictures)
    backwards = load_erased(ws, erasure.revision, erasure.samples[::-1])
    assert torch.equal(backwards.pictures, pictures.flip(0))
    with pytest.raises(StateError, match="doesn't list a sample of the plan"):
        load_erased(ws, data_revision(ws), erasure.samples)
    train(ws, [0])
    commit_training(ws, [0], "Retrain")
    erase_objects(ws, objects_to_erase(ws, hits))
    with pytest.raises(StateError, match="not in the cache, or damaged"):
        load_erased(ws, erasure.revision, erasure.samples)
    assert recall_losses(ws, erasure, composition(0, 1)).reason == "the erased pictures or an adapter couldn't be read any more"


def test_the_null_are_pictures_of_other_shards_that_were_never_here(
    removed: tuple[Workspace, pd.DataFrame, Erasure, torch.Tensor, list[str]],
) -> None:
    ws, hits, erasure, _, _ = removed
    choices = choose_samples(ws, erasure, composition(0, 1))
    assert not isinstance(choices, str)
    (choice,) = choices
    assert {each.sample_id for each in choice.erased} == set(hits["sample_id"])
    others = set(load_manifest(ws, 1)["sample_id"])
    assert set(hits["sample_id"]) & others != set()  # Ben's copy: the shard saw that picture
    assert set(choice.null["sample_id"]) == others - set(hits["sample_id"])
    again = choose_samples(ws, erasure, composition(0, 1))
    assert not isinstance(again, str)
    assert again[0].null.equals(choice.null)
    assert len(load_stage(ws, choice.null).pictures) == len(choice.null)


def test_what_another_owner_still_has_in_the_same_shard_does_not_count_as_erased(
    removed: tuple[Workspace, pd.DataFrame, Erasure, torch.Tensor, list[str]],
) -> None:
    ws, hits, erasure, _, _ = removed
    add_samples(ws, CLEO, 0, 1, [sample(1, "grey of Cleo")])
    choices = choose_samples(ws, erasure, composition(0, 1))
    assert not isinstance(choices, str)
    gone = [each.sample_id for each in choices[0].erased]
    assert len(gone) == len(hits) - 1
    assert not set(gone) & set(load_manifest(ws, 0)["sample_id"])
    add_samples(ws, CLEO, 0, 1, [sample(0), sample(2)])
    assert choose_samples(ws, erasure, composition(0, 1)) == "fewer than two pictures on a side"


def test_no_neighbour_is_looked_for_among_what_another_owner_still_has_anywhere(
    removed: tuple[Workspace, pd.DataFrame, Erasure, torch.Tensor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, hits, erasure, pictures, _ = removed
    made = {"before": torch.zeros_like(pictures), "after": torch.full_like(pictures, 255)}
    sides = iter([*made.values()] * 2)
    monkeypatch.setattr("tasks.deletion.neighbours.load_generated", lambda *_: (next(sides), None))
    found = find_neighbours(ws, erasure, composition(0, 1), composition(0, 1), [])
    assert not isinstance(found, str)
    assert found.share_erased == (len(hits) - 1) / (len(hits) - 1 + 3)  # Ben has one of hers; Cleo has three in shard 0
    add_samples(ws, BEN, 1, 1, [sample(1), sample(2)])
    reason = find_neighbours(ws, erasure, composition(0, 1), composition(0, 1), [])
    assert reason == "every erased picture is still there under another owner"


def test_where_there_is_nothing_to_compare_there_is_a_reason(
    removed: tuple[Workspace, pd.DataFrame, Erasure, torch.Tensor, list[str]],
) -> None:
    ws, _, erasure, _, _ = removed
    parameters = (ws.root / "params.yaml").read_text()
    for left, shards, limit, reason in (
        (0, (0, 1), 32, "no hit shard has an adapter both before and after"),
        (3, (1,), 32, "no hit shard has an adapter both before and after"),
        (3, (0, 1), 0, "switched off"),
        (3, (0, 1), 1, "fewer than two pictures on a side"),
    ):
        (ws.root / "params.yaml").write_text(parameters.replace("membership_samples: 32", f"membership_samples: {limit}"))
        asked = replace(erasure, left=((0, left),))
        recalled = recall_losses(ws, asked, composition(*shards))
        assert reason in str(recalled.reason)
        assert not any(each.sample_id in str(recalled.reason) for each in erasure.samples)
        assert reason in str(attack_candidate(ws, asked, composition(*shards), composition(*shards), recalled))
