import pytest

from cdm_core.errors import InvalidInputError, StateError
from tasks.data.manifest_store import count_owners, count_samples, load_manifest, load_manifests, save_manifest
from tasks.workspace import Workspace


def test_manifests_are_loaded_and_counted(small: Workspace) -> None:
    manifests = load_manifests(small)
    assert sorted(manifests) == [0, 1]
    assert count_samples(manifests) == 12
    assert count_owners(manifests) == 4


def test_saving_what_was_loaded_changes_no_byte(small: Workspace) -> None:
    content = small.manifest(0).read_bytes()
    save_manifest(small, 0, load_manifest(small, 0))
    assert small.manifest(0).read_bytes() == content


def test_a_missing_or_exchanged_manifest_is_named(small: Workspace) -> None:
    small.manifest(1).write_bytes(small.manifest(0).read_bytes())
    with pytest.raises(InvalidInputError, match=r"shard-1.parquet: holds rows of another shard"):
        load_manifests(small)
    small.manifest(1).unlink()
    with pytest.raises(StateError, match=r"shard-1.parquet: no such manifest; get it with: dvc pull"):
        load_manifests(small)


def test_a_broken_manifest_is_not_saved(small: Workspace) -> None:
    content = small.manifest(0).read_bytes()
    with pytest.raises(InvalidInputError, match=r"shard-0.parquet: row 0: stage: not between"):
        save_manifest(small, 0, load_manifest(small, 0).assign(stage=-1))
    assert small.manifest(0).read_bytes() == content


def test_what_one_caller_changes_no_other_sees(small: Workspace) -> None:
    content = load_manifest(small, 0)
    changed = load_manifest(small, 0)
    changed.loc[0, "caption"] = "another"
    changed["stage"] = 7
    assert load_manifest(small, 0).equals(content)
    assert not changed.equals(content)
