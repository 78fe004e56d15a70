"""`lethe plan-shards` on a workspace that is not built."""

import sys
from pathlib import Path

import pytest
from tiny_workspace import OWNERS, STAGES, lethe, make_workspace
from workspace_snapshot import tree_digests

from flows.cli import main
from tasks.workspace import Workspace


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("planned") / "ws")


def test_the_plans_are_compared_on_the_workspaces_own_manifests(ws: Workspace) -> None:
    before = tree_digests(ws.root)
    document = lethe(ws, "plan-shards").document
    assert tree_digests(ws.root) == before
    assert (document["batch"], document["owners"], document["shards"]) == (1, len(OWNERS), 3)
    assert document["samples"] == sum(len(owner.pictures) for owner in OWNERS) == sum(stage["samples"] for stage in document["stages"])
    names = [row["name"] for row in document["alternatives"]]
    assert names == ["one stage", "SISA order", "cold first", "cold first, front-loaded", "chosen"]
    assert [row["stages"] for row in document["alternatives"]] == [1, STAGES, STAGES, STAGES, STAGES]
    for row in document["alternatives"]:
        assert row["share_of_monolith"] == pytest.approx(row["expected_steps"] / document["steps_monolith"])
        assert row["share_of_shard"] == pytest.approx(row["expected_steps"] / document["steps_shard"])
        assert row["expected_steps_per_deletion"] == row["expected_steps"]
    # Two stages of which each merges two tiers; one epoch in each, and 8 samples a batch.
    assert [stage["tiers"] for stage in document["stages"]] == [["contract", "opt-in"], ["opt-out", "contested"]]
    assert [stage["yearly_rate"] for stage in document["stages"]] == pytest.approx([0.0068 / 0.7, 0.07 / 0.3])
    rates = [0.0068 / 0.7, 0.07 / 0.3]
    total = sum(rates[owner.stage] for owner in OWNERS)
    expected = 0.0
    for owner in OWNERS:
        for stage in range(owner.stage, STAGES):
            samples = sum(len(other.pictures) for other in OWNERS if (other.shard, other.stage) == (owner.shard, stage))
            expected += rates[owner.stage] / total * -(-samples // 8)
    assert document["alternatives"][-1]["expected_steps"] == pytest.approx(expected)


def test_a_batch_is_told_as_a_whole_and_per_deletion(ws: Workspace) -> None:
    one, many = (lethe(ws, "plan-shards", "--batch", batch).document["alternatives"][-1] for batch in ("1", "64"))
    assert one["expected_steps"] < many["expected_steps"] < 64 * one["expected_steps"]
    assert many["expected_steps_per_deletion"] == many["expected_steps"] / 64


def test_a_person_gets_a_table(ws: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lethe", "plan-shards", "--workspace", str(ws.root)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    for text in ("Expected training for one deletion", "SISA order", "cold first, front-loaded", "chosen", "opt-out, contested"):
        assert text in printed


def test_without_samples_there_is_nothing_to_plan(tmp_path: Path) -> None:
    from tasks.data.workspace_init import create_workspace

    create_workspace(tmp_path / "ws", shards=2, stages=2, pictures=[], secret=b"s", progress=lambda done, total: None)
    (tmp_path / "ws" / ".lethe" / "keys").mkdir(exist_ok=True)
    ran = lethe(Workspace(tmp_path / "ws"), "plan-shards")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("there is no sample to plan for\n")
