import pandas as pd
from small_workspace import SECRET, png, sample

from cdm_core.sharding.manifests import find_samples
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.manifest_store import load_manifest, load_manifests
from tasks.data.packs import read_pack
from tasks.data.samples import add_samples, pack_name, remove_samples, unique_samples
from tasks.workspace import Workspace

ANNA = compute_owner_key(SECRET, "anna")  # shard 0, stage 1
EMIL = compute_owner_key(SECRET, "emil")  # new


def contents(ws: Workspace) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in (ws.packs(0).parent, ws.manifests) for path in folder.rglob("*") if path.is_file()}


def test_samples_are_appended_once(small: Workspace) -> None:
    arrivals = [sample(200, "new"), sample(200, "again"), sample(0, "known already")]
    assert add_samples(small, ANNA, 0, 1, arrivals) == 1
    manifest = load_manifest(small, 0)
    captions = dict(zip(manifest["sample_id"], manifest["caption"], strict=True))
    assert len(manifest) == 7
    assert captions[sample(200).sample_id] == "new"
    assert captions[sample(0).sample_id] == "grey 0"
    assert set(read_pack(small.packs(0) / pack_name(ANNA)).values()) == {png(grey) for grey in (0, 1, 2, 200)}
    before = contents(small)
    assert add_samples(small, ANNA, 0, 1, arrivals) == 0
    assert contents(small) == before


def test_a_new_owner_gets_a_pack(small: Workspace) -> None:
    assert add_samples(small, EMIL, 1, 0, [sample(77)]) == 1
    hits = find_samples(load_manifests(small), owner_keys={EMIL})
    assert hits[["shard", "stage", "pack"]].to_numpy().tolist() == [[1, 0, f"{EMIL}.tar"]]
    assert read_pack(small.packs(1) / f"{EMIL}.tar") == {sample(77).sample_id: png(77)}


def test_an_arrival_cut_short_between_pack_and_manifest_is_finished(small: Workspace) -> None:
    manifest = small.manifest(1).read_bytes()
    add_samples(small, EMIL, 1, 0, [sample(77)])
    after = contents(small)
    small.manifest(1).write_bytes(manifest)
    assert add_samples(small, EMIL, 1, 0, [sample(77)]) == 1
    assert contents(small) == after


def test_adding_and_removing_leaves_no_trace(small: Workspace) -> None:
    before = contents(small)
    add_samples(small, EMIL, 1, 0, [sample(77)])
    add_samples(small, ANNA, 0, 1, [sample(77)])
    hits = find_samples(load_manifests(small), sample_ids={sample(77).sample_id})
    for _ in range(2):
        assert remove_samples(small, hits) == [0, 1]
        assert contents(small) == before


def test_a_whole_owner_and_one_sample_of_another_are_removed(small: Workspace) -> None:
    hits = find_samples(load_manifests(small), owner_keys={ANNA}, sample_ids={sample(30).sample_id})
    assert remove_samples(small, hits) == [0, 1]
    assert not (small.packs(0) / pack_name(ANNA)).exists()
    assert read_pack(small.packs(1) / pack_name(compute_owner_key(SECRET, "dora"))).keys() == {sample(g).sample_id for g in (31, 32)}
    assert len(load_manifest(small, 0)) == 3
    assert len(load_manifest(small, 1)) == 5


def test_the_same_picture_of_another_owner_stays(small: Workspace) -> None:
    add_samples(small, EMIL, 1, 0, [sample(0)])
    hits = find_samples(load_manifests(small), owner_keys={EMIL})
    assert remove_samples(small, hits) == [1]
    assert sample(0).sample_id in read_pack(small.packs(0) / pack_name(ANNA))


def test_removal_sweeps_what_a_crash_left(small: Workspace) -> None:
    hits = find_samples(load_manifests(small), owner_keys={ANNA})
    (small.packs(0) / f".{ANNA}.tar.partial").write_bytes(png(0))
    remove_samples(small, hits)
    assert [path.name for path in small.packs(0).iterdir()] == [pack_name(compute_owner_key(SECRET, "cleo"))]


def test_no_hits_touch_no_shard(small: Workspace) -> None:
    before = contents(small)
    assert remove_samples(small, find_samples(load_manifests(small))) == []
    assert contents(small) == before


def test_the_first_of_equal_pictures_stands() -> None:
    assert [one.caption for one in unique_samples([sample(1, "a"), sample(2, "b"), sample(1, "c")])] == ["a", "b"]


def test_emptying_a_shard_leaves_a_shard(small: Workspace) -> None:
    remove_samples(small, pd.concat([load_manifest(small, 0)]))
    assert load_manifest(small, 0).empty
    assert list(small.packs(0).iterdir()) == []
