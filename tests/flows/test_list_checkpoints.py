"""`lethe checkpoints`: what it says of a built workspace and of one that forgot, and that collecting leaves what is needed."""

import json
from pathlib import Path
from typing import Any

import pytest
from built_workspace import Built, Forgotten
from tiny_workspace import OWNERS, lethe, make_workspace, owners_of, set_parameters, signed_request
from workspace_snapshot import flip_byte

from cdm_core.digests import sha256_digest
from tasks.models.model_registry import champion
from tasks.plans.planning import load_plan
from tasks.training.checkpoints import CheckpointStore
from tasks.workspace import Workspace


def stages(document: dict[str, Any], shard: int) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = document["shards"][shard]["chain"]
    return chain


def test_after_a_build_every_stage_is_reusable(built: Built) -> None:
    document = lethe(built.ws, "checkpoints").document
    assert [shard["stages_reusable"] for shard in document["shards"]] == [2, 2, 2]
    for shard in range(3):
        first, last = stages(document, shard)
        counts = [sum(len(owner.pictures) for owner in owners_of(shard, stage)) for stage in (0, 1)]
        assert [first["samples"], last["samples"]] == counts
        assert [stage["reason"] for stage in (first, last)] == [f"reused: same {count} samples, config, backbone, code" for count in counts]
        assert {first["made"], last["made"]} == {"built: no earlier checkpoint of this stage is kept"}
        assert first["references"] == ["chain"]
        assert last["references"] == ["chain", "champion"]
        assert first["present"]
        assert first["bytes"] > 100_000
        assert first["num_records"] == last["num_records"] == 1
    store = CheckpointStore(built.ws.checkpoints)
    assert document["bytes"] == sum(path.stat().st_size for path in store.folder.iterdir())
    assert (document["num_checkpoints"], document["unreferenced"], document["others"]) == (6, 0, [])


def test_what_a_deletion_rebuilt_says_how_many_are_gone(forgotten: Forgotten) -> None:
    document = lethe(forgotten.ws, "checkpoints").document
    first, last = stages(document, 0)
    assert first["made"] == "built: no earlier checkpoint of this stage is kept"
    assert last["made"] == f"rebuilt: {len(forgotten.owner.pictures)} samples gone"
    assert last["reason"] == f"reused: same {last['samples']} samples, config, backbone, code"
    # The stop served the first stage's checkpoint, and its composition can serve again.
    assert [name.partition(" ")[0] for name in first["references"]] == ["chain", "composition"]
    assert "champion" in last["references"]


def test_before_a_build_there_is_nothing(tmp_path: Path) -> None:
    ws = make_workspace(tmp_path / "ws")
    document = lethe(ws, "checkpoints", "--collect").document
    assert (document["num_checkpoints"], document["bytes"], document["collected"]) == (0, 0, 0)
    assert {stage["reason"] for shard in range(3) for stage in stages(document, shard)} == {
        "built: no earlier checkpoint of this stage is kept"
    }
    assert not any(stage["present"] for shard in range(3) for stage in stages(document, shard))


def test_no_entry_names_a_sample_or_an_owner(forgotten: Forgotten) -> None:
    text = "".join(path.read_text() for path in forgotten.ws.checkpoints.glob("*.json"))
    assert text
    for owner in OWNERS:
        assert not any(word in text for word in (owner.owner_id, owner.key, *owner.sample_ids))


@pytest.mark.slow
def test_another_setting_leaves_nothing_reusable_and_collecting_keeps_what_serves(copied: Workspace, built: Built) -> None:
    set_parameters(copied, learning_rate=0.002)
    document = lethe(copied, "checkpoints").document
    assert [shard["stages_reusable"] for shard in document["shards"]] == [0, 0, 0]
    assert {stage["reason"] for shard in range(3) for stage in stages(document, shard)} == {"rebuilt: other config"}
    assert [(other["references"] or None) for other in document["others"]] == [None, ["champion"]] * 3
    assert document["unreferenced"] == 3
    collected = lethe(copied, "checkpoints", "--collect").document
    assert (collected["collected"], collected["collected_bytes"]) == (3, document["unreferenced_bytes"])
    assert (collected["num_checkpoints"], collected["unreferenced"]) == (3, 0)
    assert lethe(copied, "checkpoints", "--collect").document["collected"] == 0
    # What serves is whole, and the old settings train the first stages anew, to the same model.
    set_parameters(copied, learning_rate=0.004)
    assert [shard["stages_reusable"] for shard in lethe(copied, "checkpoints").document["shards"]] == [0, 0, 0]
    assert lethe(copied, "build").document["composition"] == built.answer["composition"]


def test_checkpoints_of_an_older_lethe_are_not_reused_and_kept_while_they_serve(copied: Workspace) -> None:
    """Their entries don't say whose they are."""
    before = CheckpointStore(copied.checkpoints).entries()
    for path in copied.checkpoints.glob("*.json"):
        path.write_text(json.dumps({name: value for name, value in json.loads(path.read_bytes()).items() if name != "key"}))
    document = lethe(copied, "checkpoints", "--collect").document
    assert [shard["stages_reusable"] for shard in document["shards"]] == [0, 0, 0]
    assert document["collected"] == 0
    assert set(CheckpointStore(copied.checkpoints).entries()) == set(before)


def test_what_nothing_refers_to_is_collected_with_what_a_crash_left(copied: Workspace) -> None:
    store = CheckpointStore(copied.checkpoints)
    store.write(sha256_digest(b"orphan"), b"an adapter", shard=1, stage=1)
    (store.folder / f".{sha256_digest(b'half')}.safetensors.partial").write_bytes(b"half an adap")
    before = set(store.entries())
    (other,) = lethe(copied, "checkpoints").document["others"]
    assert (other["shard"], other["stage"], other["references"]) == (1, 1, [])
    assert lethe(copied, "checkpoints", "--collect").document["collected"] == 1
    assert set(store.entries()) == before - {sha256_digest(b"orphan")}
    assert not list(store.folder.glob(".*"))


@pytest.mark.slow
def test_an_open_case_keeps_the_checkpoint_that_it_stops_at(copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.deletion import forgetting

    class Killed(BaseException):
        """As if the process had ended there."""

    def kill(*arguments: object) -> None:
        raise Killed

    owner = owners_of(0, 1)[0]
    request = signed_request(copied, tmp_path / "requests", owner_ids=[owner.owner_id])
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "stop_serving", kill)
        with pytest.raises(Killed):
            lethe(copied, "submit", request)
    plan = load_plan(copied, request.stem)
    assert plan is not None
    clean = plan.shards[0].clean_checkpoint
    assert clean is not None
    set_parameters(copied, learning_rate=0.002)  # so that today's chain doesn't need it
    document = lethe(copied, "checkpoints", "--collect").document
    assert [other["references"] for other in document["others"] if other["key"] == clean] == [[f"case {request.stem}"]]
    set_parameters(copied, learning_rate=0.004)
    assert lethe(copied, "submit", request).document["status"] == "completed"


def test_nothing_is_collected_where_the_serving_adapter_is_lost(copied: Workspace) -> None:
    store, serving = CheckpointStore(copied.checkpoints), champion(copied)
    assert serving is not None
    (path,) = (store.path(key) for key, entry in store.entries().items() if (entry["shard"], entry["stage"]) == (2, 1))
    path.unlink()
    ran = lethe(copied, "checkpoints", "--collect")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "the adapter that serves for shard 2 is not in the store; nothing was collected" in ran.err
    assert len(store.entries()) == 6


def test_a_damaged_entry_is_said_in_a_line(copied: Workspace) -> None:
    flip_byte(next(iter(sorted(copied.checkpoints.glob("*.json")))), 0)
    ran = lethe(copied, "checkpoints")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "its entry is damaged; delete it and run again" in ran.err


def test_the_listing_is_read_line_by_line(forgotten: Forgotten, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.checkpoints import print_checkpoints, run_checkpoints

    print_checkpoints(run_checkpoints(forgotten.ws.root, collect=False))
    out = capsys.readouterr().out
    assert "shard 0: 2 of 2 stages reusable\n" in out
    assert f"(made: rebuilt: {len(forgotten.owner.pictures)} samples gone); for chain, champion\n" in out
    assert "6 checkpoints, " in out
