"""What evaluation asks for follows from the manifests, what it made is kept, and nothing is kept that isn't needed."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_settings import set_parameters, use_quick_settings
from safetensors.torch import load
from small_workspace import SECRET

from cdm_core.composition.document import Composition, Expert
from cdm_core.composition.mixing import draw_expert
from cdm_core.composition.serving import CENTROIDS_NAME, load_composed_model
from cdm_core.digests import Digest, derive_seed, sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.evaluation.moments import Moments
from cdm_core.sharding.manifests import build_manifest, drop_samples, find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.manifest_store import load_manifest, load_manifests, save_manifest
from tasks.data.samples import remove_samples
from tasks.models import seen_pictures
from tasks.models.compositions import adapter_files, centroid_files, compose, expert_of
from tasks.models.evaluation import (
    PictureRequest,
    ShardDescription,
    centroids_file,
    choose_pictures,
    describe_shard,
    erase_descriptions_but,
    erase_generated_but,
    gate_to_json,
    generate_for,
    generate_missing,
    generated_file,
    judge_compositions,
    load_generated,
    prefix_rows,
    smallest_compositions,
)
from tasks.models.seen_pictures import look_at_shard, seen_file
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import train_shard
from tasks.training.workers import worker_pool
from tasks.workspace import Workspace

PICTURES = 16


@pytest.fixture(scope="module")
def _built(_small_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both shards trained and described, the whole composition's pictures made."""
    root = tmp_path_factory.mktemp("built") / "ws"
    shutil.copytree(_small_template, root)
    torch.set_num_threads(1)
    ws = use_quick_settings(Workspace(root))
    for shard in (0, 1):
        train_shard(ws, shard)
        describe_shard(ws, shard)
    generate(ws, composition_of(ws))
    return root


@pytest.fixture
def ws(_built: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(_built, tmp_path / "ws")
    return Workspace(tmp_path / "ws")


def composition_of(ws: Workspace) -> Composition:
    """Of what is trained and described by now."""
    return compose(ws.settings(), [expert_of(train_shard(ws, shard), describe_shard(ws, shard)) for shard in (0, 1)])


def generate(ws: Workspace, composition: Composition) -> None:
    for part, group in smallest_compositions(composition, pictures_of(ws)):
        generate_missing(ws, part.to_bytes(), adapter_files(ws, part), centroid_files(ws, part), group)


def pictures_of(ws: Workspace) -> list[PictureRequest]:
    return choose_pictures(load_manifests(ws), num=PICTURES, seed=0)


def moments_of(ws: Workspace) -> list[Path]:
    return [describe_shard(ws, shard).moments_file for shard in (0, 1)]


def files_of(ws: Workspace, folder: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (ws.cache / folder).iterdir()}


def manifest(shard: int, captions: list[str]) -> pd.DataFrame:
    owner = f"{shard:016x}"
    sample_ids = [sha256_digest(f"{shard} {number}".encode()) for number in range(len(captions))]
    return build_manifest(
        {
            "sample_id": sample_id,
            "owner_key": owner,
            "shard": shard,
            "stage": 0,
            "pack": f"{owner}.tar",
            "member": f"{sample_id}.png",
            "caption": caption,
            "arrived_at": datetime(2020, 1, 1, tzinfo=UTC),
        }
        for sample_id, caption in zip(sample_ids, captions, strict=True)
    )


def drawn_shards(manifests: Mapping[int, pd.DataFrame], pictures: list[PictureRequest]) -> list[int]:
    experts = [Expert(shard=s, adapter=Digest(""), samples=len(f), centroids=None) for s, f in sorted(manifests.items()) if len(f)]
    return [experts[draw_expert(experts, picture.seed)].shard for picture in pictures]


def test_pictures_follow_from_manifests_number_and_seed() -> None:
    manifests = {0: manifest(0, ["cat", "dog"]), 1: manifest(1, ["sun"]), 2: manifest(2, [])}
    chosen = choose_pictures(manifests, num=40, seed=3)
    assert choose_pictures(dict(reversed(manifests.items())), num=40, seed=3) == chosen
    assert choose_pictures(manifests, num=10, seed=3) == chosen[:10]
    assert choose_pictures(manifests, num=40, seed=4) != chosen
    assert {picture.caption for picture in chosen} == {"cat", "dog", "sun"}
    assert [picture.seed for picture in chosen] == [derive_seed("evaluation", 3, number) for number in range(40)]
    assert len({picture.key for picture in chosen}) == 40


def test_a_caption_is_of_the_shard_whose_expert_draws_its_picture() -> None:
    manifests = {shard: manifest(shard, [f"{shard} {number}" for number in range(3 + shard)]) for shard in range(4)}
    chosen = choose_pictures(manifests, num=64, seed=0)
    assert [int(picture.caption.partition(" ")[0]) for picture in chosen] == drawn_shards(manifests, chosen)


def test_distinct_captions_are_equally_likely_however_many_samples_bear_them() -> None:
    chosen = choose_pictures({0: manifest(0, ["cat"] * 99 + ["dog"])}, num=400, seed=0)
    assert 160 < sum(picture.caption == "cat" for picture in chosen) < 240


def test_without_any_sample_pictures_have_no_caption() -> None:
    chosen = choose_pictures({0: manifest(0, []), 1: manifest(1, [])}, num=4, seed=0)
    assert [picture.caption for picture in chosen] == [""] * 4
    assert [picture.seed for picture in chosen] == [picture.seed for picture in choose_pictures({0: manifest(0, ["cat"])}, num=4, seed=0)]


@given(
    captions=st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), min_size=2, max_size=4),
    hit=st.integers(0, 3),
    data=st.data(),
)
@settings(deadline=None, max_examples=50)
def test_a_deletion_changes_only_pictures_of_its_captions_and_of_the_hit_shard(
    captions: list[list[str]], hit: int, data: st.DataObject
) -> None:
    before = {shard: manifest(shard, texts) for shard, texts in enumerate(captions)}
    hit %= len(captions)
    rows = data.draw(st.sets(st.integers(0, len(captions[hit]) - 1), min_size=1))
    after = before | {hit: drop_samples(before[hit], before[hit].iloc[sorted(rows)])}
    old, new = (choose_pictures(manifests, num=30, seed=0) for manifests in (before, after))
    kept_captions = set(after[hit]["caption"])
    makers = zip(drawn_shards(before, old), drawn_shards(after, new) if any(map(len, after.values())) else [None] * 30, strict=True)
    for one, other, (shard_before, shard_after) in zip(old, new, makers, strict=True):
        assert one.seed == other.seed
        assert shard_after == shard_before or shard_before == hit  # pictures move away from the hit shard only
        if shard_before == shard_after and (shard_before != hit or one.caption in kept_captions):
            assert one.caption == other.caption


def test_the_smallest_compositions_share_the_pictures_out(ws: Workspace) -> None:
    composition, pictures = composition_of(ws), pictures_of(ws)
    parts = smallest_compositions(composition, pictures)
    assert [part.shards for part, _ in parts] == [(0,), (1,)]
    assert sorted(picture.seed for _, group in parts for picture in group) == sorted(picture.seed for picture in pictures)
    for part, group in parts:
        drawn = [composition.experts[draw_expert(composition.experts, picture.seed)] for picture in group]
        assert set(drawn) == set(part.experts)


@pytest.mark.parametrize("method", ["average", "random", "knn"])
def test_methods_that_mix_shards_need_the_whole_composition(ws: Workspace, method: str) -> None:
    composition, pictures = composition_of(ws).with_method(method), pictures_of(ws)  # type: ignore[arg-type]  # a method's name
    assert smallest_compositions(composition, pictures) == [(composition, pictures)]
    assert smallest_compositions(composition.restricted_to([]), pictures) == [(composition.restricted_to([]), pictures)]


def test_cached_pictures_are_those_of_the_whole_model(ws: Workspace) -> None:
    composition, pictures = composition_of(ws), pictures_of(ws)
    made, features = load_generated(ws, composition, pictures)
    assert features.shape == (PICTURES, 1280)
    model = load_composed_model(composition.to_bytes(), adapter_files(ws, composition))
    rows = [0, 7, 15]
    asked = [pictures[row] for row in rows]
    again = model.generate([picture.caption for picture in asked], [picture.seed for picture in asked])
    assert torch.equal(made[rows], again)


def test_generating_again_makes_nothing(ws: Workspace) -> None:
    before = files_of(ws, "generated")
    assert len(before) == 2
    generate(ws, composition_of(ws))
    assert files_of(ws, "generated") == before


def test_a_removal_makes_anew_what_the_hit_shard_makes_and_nothing_else(ws: Workspace) -> None:
    before, pictures_before = files_of(ws, "generated"), pictures_of(ws)
    remove_samples(ws, find_samples(load_manifests(ws), owner_keys=[str(load_manifest(ws, 1)["owner_key"].iloc[0])]))
    candidate, untouched = composition_of(ws), composition_of(ws).restricted_to([0])
    generate(ws, candidate)
    after = files_of(ws, "generated")
    assert set(before) < set(after)
    assert {path for path in after if path not in before} == {generated_file(ws, candidate.restricted_to([1])).name}
    # Pictures that the untouched shard made before are the same bits now.
    makers = [candidate.experts[draw_expert(candidate.experts, picture.seed)].shard for picture in pictures_before]
    same = [one == other and maker == 0 for one, other, maker in zip(pictures_before, pictures_of(ws), makers, strict=True)]
    assert any(same)
    cached = load(generated_file(ws, untouched).read_bytes())
    made, _ = load_generated(ws, candidate, pictures_of(ws))
    for row, (picture, is_same) in enumerate(zip(pictures_of(ws), same, strict=True)):
        assert not is_same or torch.equal(made[row], cached[f"{picture.key}.picture"])


def test_workers_fill_the_cache_with_the_same_bytes(ws: Workspace) -> None:
    composition = composition_of(ws)
    expected = {path.name: path.read_bytes() for path in (ws.cache / "generated").iterdir()}
    shutil.rmtree(ws.cache / "generated")
    reports: list[tuple[str, int]] = []
    with worker_pool(1, lambda what, amount: reports.append((what, amount))) as pool:
        generate_for(pool, ws, composition, adapter_files(ws, composition), centroid_files(ws, composition), pictures_of(ws))
    assert {path.name: path.read_bytes() for path in (ws.cache / "generated").iterdir()} == expected
    assert sum(amount for what, amount in reports if what == "evaluation pictures") == PICTURES


def test_a_picture_that_was_not_made_is_missed(ws: Workspace) -> None:
    composition = composition_of(ws)
    generated_file(ws, composition.restricted_to([1])).unlink()
    with pytest.raises(VerificationError, match=r"\.safetensors: lacks an evaluation picture; generate before judging$"):
        load_generated(ws, composition, pictures_of(ws))


def test_a_shard_is_described_by_moments_and_centroids_of_each_stage(ws: Workspace) -> None:
    described = describe_shard(ws, 0)
    assert (described.shard, described.samples, len(described.centroids_files)) == (0, 6, 2)
    assert described.centroids == sha256_digest(described.centroids_files[-1].read_bytes())
    moments = Moments.from_bytes(described.moments_file.read_bytes(), "moments")
    assert moments.count == 6
    for path, rows in zip(described.centroids_files, (3, 6), strict=True):
        assert load(path.read_bytes())[CENTROIDS_NAME].shape == (2, 128)
        assert rows == len(prefix_rows(load_manifest(ws, 0), described.centroids_files.index(path) + 1))


def test_a_description_is_found_again(ws: Workspace) -> None:
    before = files_of(ws, "shards")
    manifests = load_manifests(ws).values()
    prefixes = {tuple(prefix_rows(manifest, stage + 1)["sample_id"]) for manifest in manifests for stage in range(2)}
    assert len(before) == 2 * 2 + len(prefixes)  # a shard's moments and what was seen, and centroids of each set of samples
    first = describe_shard(ws, 0)
    assert describe_shard(ws, 0) == first
    assert files_of(ws, "shards") == before


def test_a_description_without_one_of_its_files_is_made_again(ws: Workspace) -> None:
    first = describe_shard(ws, 0)
    content = first.centroids_files[0].read_bytes()
    first.centroids_files[0].unlink()
    assert describe_shard(ws, 0) == first
    assert first.centroids_files[0].read_bytes() == content


def test_a_removal_changes_the_description_of_its_shard_alone(ws: Workspace) -> None:
    before = [describe_shard(ws, shard) for shard in (0, 1)]
    remove_samples(ws, load_manifest(ws, 1).iloc[:1])
    after = [describe_shard(ws, shard) for shard in (0, 1)]
    assert after[0] == before[0]
    assert after[1].samples == 5
    assert after[1].centroids != before[1].centroids
    assert after[1].moments_file != before[1].moments_file


def test_the_description_after_a_removal_is_that_of_a_workspace_that_never_had_the_sample(ws: Workspace, tmp_path: Path) -> None:
    remove_samples(ws, load_manifest(ws, 1).iloc[:1])
    shutil.copytree(ws.root, tmp_path / "never", ignore=shutil.ignore_patterns("cache"))
    described, never = describe_shard(ws, 1), describe_shard(Workspace(tmp_path / "never"), 1)
    assert described.centroids == never.centroids
    assert described.moments_file.read_bytes() == never.moments_file.read_bytes()


def test_no_picture_is_looked_at_again_after_a_removal(ws: Workspace) -> None:
    describe_shard(ws, 1)
    remove_samples(ws, load_manifest(ws, 1).iloc[:1])
    shutil.rmtree(ws.root / "data_packs")
    assert describe_shard(ws, 1).samples == 5


def test_a_sample_that_is_new_is_looked_at_and_the_others_are_not(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_manifest(ws, 1)
    look_at_shard(ws, 1, whole.iloc[:4])
    (ws.cache / "shards" / seen_file(ws, 1, whole).name).unlink()
    seen, looked = look_at_shard(ws, 1, whole), []
    (ws.cache / "shards" / seen_file(ws, 1, whole).name).unlink()
    monkeypatch.setattr(seen_pictures, "report_progress", lambda what, amount: looked.append(amount))
    again = look_at_shard(ws, 1, whole)
    assert looked == [4, 2]
    assert torch.equal(again.features, seen.features)
    assert torch.equal(again.embeddings, seen.embeddings)


def test_a_shard_of_nothing_is_described_too(ws: Workspace) -> None:
    save_manifest(ws, 0, build_manifest([]))
    described = describe_shard(ws, 0)
    assert described.samples == 0
    assert Moments.from_bytes(described.moments_file.read_bytes(), "moments").count == 0
    assert load(described.centroids_files[-1].read_bytes())[CENTROIDS_NAME].shape == (0, 128)


def test_other_knn_parameters_have_centroids_of_their_own(ws: Workspace) -> None:
    rows = load_manifest(ws, 0)
    before = centroids_file(ws, rows)
    set_parameters(ws, {"knn": {"centroids": 1}})
    assert centroids_file(ws, rows) != before
    assert load(describe_shard(ws, 0).centroids_files[-1].read_bytes())[CENTROIDS_NAME].shape == (1, 128)


def test_a_model_is_as_good_as_itself(ws: Workspace) -> None:
    composition = composition_of(ws)
    gate = judge_compositions(ws, composition, composition, pictures_of(ws), moments_of(ws))
    assert (gate.verdict, gate.change, gate.num_samples, gate.num_blocks) == ("pass", 0, PICTURES, 4)
    assert gate.fd_before == gate.fd_after > 0
    assert gate_to_json(gate)["verdict"] == "pass"


def test_another_model_has_another_distance(ws: Workspace) -> None:
    composition = composition_of(ws)
    bare = compose(ws.settings(), [])
    generate(ws, bare)
    gate = judge_compositions(ws, bare, composition, pictures_of(ws), moments_of(ws))
    assert gate.change == gate.fd_after - gate.fd_before != 0


@pytest.mark.parametrize("left", [0, 1])
def test_the_last_to_be_forgotten_leave_nothing_to_compare_with(ws: Workspace, left: int) -> None:
    save_manifest(ws, 0, load_manifest(ws, 0).iloc[:left])
    save_manifest(ws, 1, build_manifest([]))
    bare = compose(ws.settings(), [])
    generate(ws, bare)
    gate = judge_compositions(ws, bare, bare, pictures_of(ws), moments_of(ws))
    assert gate.verdict == "inconclusive"
    assert gate.reason == f"a distance needs two samples to compare with, and {left} are left"
    assert load_generated(ws, bare, pictures_of(ws))[0].shape == (PICTURES, 3, 32, 32)


def test_a_workspace_without_shards_has_no_reference(ws: Workspace) -> None:
    bare = compose(ws.settings(), [])
    with pytest.raises(VerificationError, match=r"^evaluation: there is no reference, since no sample is left$"):
        judge_compositions(ws, bare, bare, pictures_of(ws), [])


def test_generated_pictures_that_nobody_needs_are_erased(ws: Workspace) -> None:
    composition = composition_of(ws)
    bare = compose(ws.settings(), [])
    generate(ws, bare)
    (ws.cache / "generated" / ".half.partial").write_bytes(b"left by a crash")
    assert erase_generated_but(ws, [bare, composition.restricted_to([1])], pictures_of(ws)) == 2
    assert set(files_of(ws, "generated")) == {generated_file(ws, bare).name, generated_file(ws, composition.restricted_to([1])).name}
    assert erase_generated_but(ws, [bare, composition.restricted_to([1])], pictures_of(ws)) == 0
    assert erase_generated_but(ws, [], pictures_of(ws)) == 2
    assert files_of(ws, "generated") == {}


def files_of_description(description: ShardDescription) -> set[Path]:
    return {*description.centroids_files, description.moments_file, description.seen_file}


def test_descriptions_that_nobody_needs_are_erased(ws: Workspace) -> None:
    gone: list[ShardDescription] = [describe_shard(ws, shard) for shard in (0, 1)]
    remove_samples(ws, find_samples(load_manifests(ws), owner_keys=[compute_owner_key(SECRET, "anna")]))
    kept = [describe_shard(ws, shard) for shard in (0, 1)]
    (ws.cache / "shards" / ".half.partial").write_bytes(b"left by a crash")
    erased = erase_descriptions_but(ws, kept)
    named = {path for description in kept for path in files_of_description(description)}
    assert set((ws.cache / "shards").iterdir()) == named
    assert erased == len({path for one in gone for path in files_of_description(one)} - named) + 1
    assert erase_descriptions_but(ws, kept) == 0


def test_a_folder_that_stays_is_not_called_erased(ws: Workspace) -> None:
    stuck = ws.cache / "generated" / "folder"
    stuck.mkdir()
    with pytest.raises(VerificationError, match=r"generated: folder is still there after its erasure$"):
        erase_generated_but(ws, [], pictures_of(ws))


def test_a_checkpoint_store_holds_each_experts_adapter(ws: Workspace) -> None:
    composition = composition_of(ws)
    store = CheckpointStore(ws.checkpoints)
    assert {sha256_digest(path.read_bytes()) for path in adapter_files(ws, composition).values()} <= {
        str(entry["adapter"]) for entry in store.entries().values()
    }
