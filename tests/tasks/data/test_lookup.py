import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdm_core.errors import InvalidInputError, StateError
from cdm_core.sharding.manifests import build_manifest, drop_samples, find_samples, stage_samples
from tasks.data.lookup import LOOKUP_COLUMNS, count_by_stage, erase_stale_indices, look_up, make_indices
from tasks.data.manifest_store import load_manifest, load_manifests, save_manifest
from tasks.data.many_samples import make_manifests
from tasks.data.shipped import shipped_file
from tasks.workspace import Workspace

# Ids that share their first 8 bytes are the hard case of an index that compares 8 bytes first.
_SAMPLES = [f"{n:064x}" for n in range(4)] + [f"{n:016x}{'f' * 48}" for n in range(4)]
_OWNERS = [f"{n:016x}" for n in range(4)]


def write(ws: Workspace, rows: dict[int, set[tuple[str, str, int]]]) -> None:
    for shard, triples in rows.items():
        unique = {(owner, sample): stage for owner, sample, stage in sorted(triples)}
        save_manifest(
            ws,
            shard,
            build_manifest(
                {
                    "sample_id": sample,
                    "owner_key": owner,
                    "shard": shard,
                    "stage": stage,
                    "pack": f"{owner}.tar",
                    "member": f"{sample}.png",
                    "caption": "",
                    "arrived_at": datetime(2020, 1, 1, tzinfo=UTC),
                }
                for (owner, sample), stage in unique.items()
            ),
        )


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("lookup"))
    (made.root / "params.yaml").write_text(shipped_file("params.yaml").read_text().replace("[0, 1, 2, 3, 4, 5, 6, 7]", "[0, 1]"))
    return made


@pytest.fixture(scope="module", autouse=True, params=[0, 10**6], ids=["indexed", "not indexed"])
def _indexed_rows(request: pytest.FixtureRequest) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.data.lookup.INDEXED_ROWS", request.param)
        yield request.param


@pytest.fixture
def _indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.data.lookup.INDEXED_ROWS", 0)


_rows = st.sets(st.tuples(st.sampled_from(_OWNERS), st.sampled_from(_SAMPLES), st.integers(0, 3)), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries({0: _rows, 1: _rows}), st.sets(st.sampled_from([*_OWNERS, "nobody"])), st.sets(st.sampled_from([*_SAMPLES, "x"]))
)
def test_it_finds_what_find_samples_finds(
    ws: Workspace, rows: dict[int, set[tuple[str, str, int]]], owner_keys: set[str], sample_ids: set[str]
) -> None:
    write(ws, rows)
    expected = find_samples(load_manifests(ws), owner_keys=owner_keys, sample_ids=sample_ids)[list(LOOKUP_COLUMNS)]
    pd.testing.assert_frame_equal(look_up(ws, owner_keys=owner_keys, sample_ids=sample_ids), expected)
    for shard in (0, 1):
        counts = [len(stage_samples(load_manifest(ws, shard), stage)) for stage in range(4)]
        assert count_by_stage(ws, shard, 4) == counts


def test_many_row_groups_give_the_same(tmp_path: Path) -> None:
    made, sample_ids, owner_keys = make_manifests(tmp_path / "many", rows=150_000, seed=1, progress=lambda name, amount: None)
    manifests = load_manifests(made)  # the made manifests keep every rule
    assert sum(map(len, manifests.values())) == 150_000
    for asked in ({"owner_keys": owner_keys[:3]}, {"sample_ids": sample_ids}, {"owner_keys": owner_keys[:1], "sample_ids": sample_ids[:9]}):
        pd.testing.assert_frame_equal(look_up(made, **asked), find_samples(manifests, **asked)[list(LOOKUP_COLUMNS)])


def test_making_is_seeded(tmp_path: Path) -> None:
    first, second, other = (
        make_manifests(tmp_path / name, rows=500, seed=seed, progress=lambda name, amount: None)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first[1:] == second[1:] != other[1:]
    assert first[0].manifest(0).read_bytes() == second[0].manifest(0).read_bytes()


@pytest.mark.usefixtures("_indexed")
def test_a_changed_manifest_is_never_looked_up_in_an_old_index(small: Workspace) -> None:
    manifest = load_manifest(small, 0)
    gone, stays = manifest.iloc[:1], manifest.iloc[1:2]
    assert len(look_up(small, sample_ids=set(manifest["sample_id"]))) == len(manifest)
    old = small.cache / "lookup" / "shard-0.arrow"
    stale = old.read_bytes()
    save_manifest(small, 0, drop_samples(manifest, gone))
    old.write_bytes(stale)
    assert look_up(small, sample_ids=set(gone["sample_id"])).empty
    assert len(look_up(small, sample_ids=set(stays["sample_id"]))) == 1


@pytest.mark.usefixtures("_indexed")
def test_indices_of_earlier_manifests_are_erased_and_the_others_stay(small: Workspace) -> None:
    make_indices(small)
    assert erase_stale_indices(small) == 0
    manifest = load_manifest(small, 0)
    save_manifest(small, 0, drop_samples(manifest, manifest.iloc[:1]))
    (small.cache / "lookup" / "left-over").write_bytes(b"")
    assert erase_stale_indices(small) == 2
    assert [path.name for path in (small.cache / "lookup").iterdir()] == ["shard-1.arrow"]


@pytest.mark.usefixtures("_indexed")
def test_a_damaged_index_is_made_anew(small: Workspace) -> None:
    ids = set(load_manifest(small, 0)["sample_id"])
    before = look_up(small, sample_ids=ids)
    (small.cache / "lookup" / "shard-0.arrow").write_bytes(b"no index")
    pd.testing.assert_frame_equal(look_up(small, sample_ids=ids), before)
    shutil.rmtree(small.cache)
    pd.testing.assert_frame_equal(look_up(small, sample_ids=ids), before)


def test_a_missing_damaged_or_exchanged_manifest_is_named(small: Workspace) -> None:
    small.manifest(1).write_bytes(small.manifest(0).read_bytes())
    with pytest.raises(InvalidInputError, match=r"shard-1.parquet: holds rows of another shard"):
        look_up(small, sample_ids={"0" * 64})
    small.manifest(1).write_bytes(b"no Parquet")
    with pytest.raises(InvalidInputError, match=r"shard-1.parquet: not a Parquet file"):
        look_up(small, owner_keys={"0" * 16})
    small.manifest(1).unlink()
    with pytest.raises(StateError, match=r"shard-1.parquet: no such manifest; get it with: dvc pull"):
        look_up(small, sample_ids={"0" * 64})
