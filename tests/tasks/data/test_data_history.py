import pytest
from small_workspace import SECRET, sample, train

from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_history import Reference, outputs_at, parse_references, references_ever, references_now
from tasks.data.data_versions import commit_data, commit_training
from tasks.data.git import run_git
from tasks.data.samples import add_samples
from tasks.workspace import Workspace

ANNA = compute_owner_key(SECRET, "anna")  # shard 0


@pytest.mark.parametrize(
    ("name", "content", "paths"),
    [
        ("data_packs/shard-0.dvc", "outs:\n- {md5: aa.dir, path: shard-0}\n", {"data_packs/shard-0": "aa.dir"}),
        (
            "dvc.lock",
            "stages:\n  train@0:\n    cmd: x\n    deps: [{path: d/a, md5: aa}]\n    outs: [{path: o/b, md5: bb}, {path: plain}]\n",
            {"d/a": "aa", "o/b": "bb"},
        ),
        ("empty.dvc", "", {}),
    ],
)
def test_references_are_relative_to_the_workspace(name: str, content: str, paths: dict[str, str]) -> None:
    assert parse_references(name, content) == {Reference(path=path, object_id=object_id) for path, object_id in paths.items()}


def test_history_grows_and_forgets_nothing(small: Workspace) -> None:
    first = references_now(small)
    assert references_ever(small) == first
    assert {reference.path for reference in first} == {
        f"{folder}/shard-{shard}{suffix}"
        for shard in (0, 1)
        for folder, suffix in (("data_packs", ""), ("data_manifests", ".parquet"), ("adapters", ".safetensors"))
    }
    add_samples(small, ANNA, 0, 1, [sample(200)])
    commit_data(small, [0], "Arrival")
    train(small, [0])
    commit_training(small, [0], "Train")
    second = references_now(small)
    assert {reference.path for reference in second - first} == {
        f"{p}" for p in ("data_packs/shard-0", "data_manifests/shard-0.parquet", "adapters/shard-0.safetensors")
    }
    assert references_ever(small) == first | second


def test_revisions_that_no_branch_reaches_any_more_count(small: Workspace) -> None:
    first = references_now(small)
    add_samples(small, ANNA, 0, 1, [sample(200)])
    commit_data(small, [0], "Arrival")
    second = references_now(small)
    run_git(small.root, "reset", "--quiet", "--hard", "HEAD~1")
    assert references_now(small) == first
    assert references_ever(small) == first | second


def test_between_a_change_of_data_and_the_retraining_the_data_files_tell_what_is_there(small: Workspace) -> None:
    built, before = run_git(small.root, "rev-parse", "HEAD").strip(), outputs_at(small, "HEAD")
    assert before == {reference.path: reference.object_id for reference in references_now(small)}
    add_samples(small, ANNA, 0, 1, [sample(200)])
    changed = commit_data(small, [0], "Arrival")
    after = outputs_at(small, changed)
    # `dvc.lock` still names what the adapter was trained from.
    assert {path for path in after if after[path] != before[path]} == {"data_packs/shard-0", "data_manifests/shard-0.parquet"}
    assert outputs_at(small, built) == before
