"""What a reviewer reads, and that repeating a step doesn't write it twice."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError
from tasks.evidence.audit_log import AuditSummary, Picture, build_note, end_run, log_audit, log_distance_chart, open_run, picture_folder
from tasks.models import tracking
from tasks.workspace import Workspace

BEFORE, AFTER = sha256_digest(b"before"), sha256_digest(b"after")
SUMMARY = AuditSummary(
    kind="forget",
    request_id="7f9c1c5e",
    verdict="pass",
    fd_before=500.0,
    fd_after=510.0,
    margin=0.05,
    shards_hit=(2, 5),
    shards_reused=(0, 1, 3, 4, 6, 7),
    samples_removed=1234,
    samples_added=0,
    steps_retrained=120,
    steps_full_build=1960,
    stopped_version=2,
    model_version=3,
    record_names=("000004-decision.json",),
)


def test_the_note_of_a_forgotten_request() -> None:
    assert (
        build_note(SUMMARY)
        == """## Forget: pass

| | |
|---|---|
| Asked | request `7f9c1c5e`: 1,234 samples removed |
| Hit | shards 2, 5 |
| Reused | shards 0, 1, 3, 4, 6, 7, byte for byte |
| Work | 120 training steps; a full build takes 1,960 |
| Stopped | version 2 served without the data while retraining |
| Quality | Fréchet distance 500.0 → 510.0 (+2.0%; tolerated +5.0%) |
| Verdict | **pass**: version 3 may serve |
| Records | `000004-decision.json` |
"""
    )


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_a_note_without_a_pass_says_what_serves(verdict: str) -> None:
    note = build_note(replace(SUMMARY, verdict=verdict))
    assert f"| Verdict | **{verdict}**: version 3 may not serve |" in note
    assert "| Serving | version 2, until a person decides |" in note


def test_a_failed_addition_leaves_the_version_before() -> None:
    note = build_note(replace(SUMMARY, kind="learn", verdict="fail", stopped_version=None))
    assert "| Serving | the version before, until a person decides |" in note


def test_a_persons_no_is_final() -> None:
    note = build_note(replace(SUMMARY, kind="review", verdict="rejected"))
    assert "| Verdict | **rejected**: version 3 may not serve |" in note
    assert "| Serving | version 2 |" in note


def test_the_note_of_a_first_build_compares_with_nothing() -> None:
    summary = replace(
        SUMMARY, kind="build", request_id=None, fd_before=None, shards_reused=(), samples_removed=0, samples_added=1, stopped_version=None
    )
    note = build_note(summary)
    assert "| Asked | build: 1 sample added |" in note
    assert "| Quality | Fréchet distance 510.0, nothing to compare with |" in note
    assert "| Reused | nothing |" in note
    assert "Stopped" not in note


def test_long_lists_are_counted() -> None:
    note = build_note(replace(SUMMARY, shards_hit=tuple(range(1000)), shards_reused=(1000,)))
    assert "| Hit | shards 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 988 more |" in note
    assert "| Reused | shard 1000, byte for byte |" in note


def test_a_request_id_cannot_break_out_of_its_cell() -> None:
    note = build_note(replace(SUMMARY, request_id="a`|\n# <b>x"))
    assert "| Asked | request `a# <b>x`: 1,234 samples removed |" in note


def test_a_step_has_one_run(tracked: Workspace) -> None:
    first = open_run(tracked, name="forget", step_key="s", tags={"kind": "forget"})
    assert open_run(tracked, name="forget", step_key="s", tags={"kind": "forget"}) == first
    assert open_run(tracked, name="forget", step_key="t", tags={}) != first
    run = tracking.client(tracked).get_run(first)
    assert (run.info.run_name, run.data.tags["kind"], run.info.status) == ("forget", "forget", "RUNNING")
    end_run(tracked, first, "FINISHED")
    assert tracking.client(tracked).get_run(first).info.status == "FINISHED"


def test_a_run_names_nobody(tracked: Workspace) -> None:
    """MLflow would log the operating system's user on its own."""
    run = tracking.client(tracked).get_run(open_run(tracked, name="forget", step_key="s", tags={}))
    assert run.info.user_id in (None, "", "unknown")
    assert set(run.data.tags) == {"step_key", "mlflow.runName"}


def _picture(path: Path, composition: Digest) -> Picture:
    Image.new("RGB", (4, 4), "red").save(path)
    return Picture(path=path, composition=composition)


def _log(ws: Workspace, folder: Path, *, step_key: str, version: int, distance: float) -> str:
    run_id = open_run(ws, name="forget", step_key=step_key, tags={})
    record = folder / "000001-decision.json"
    record.write_text("{}")
    plan = folder / "plan.json"
    plan.write_text("[]")
    log_audit(
        ws,
        run_id,
        note="## the note",
        model_version=version,
        tags={"verdict": "pass"},
        metrics_before={"frechet_distance": 400.0},
        metrics_after={"frechet_distance": distance, "loss": 0.25},
        pictures={"before": _picture(folder / "before.png", BEFORE), "after": _picture(folder / "after.png", AFTER)},
        records=[record],
        documents=[plan],
    )
    return run_id


def test_a_run_shows_everything_once_however_often_it_is_logged(tracked: Workspace, tmp_path: Path) -> None:
    for _ in range(2):
        run_id = _log(tracked, tmp_path, step_key="s", version=3, distance=410.0)
        log_distance_chart(tracked, run_id)
    store = tracking.client(tracked)
    run = store.get_run(run_id)
    assert run.data.metrics == {
        "before/frechet_distance": 400.0,
        "after/frechet_distance": 410.0,
        "after/loss": 0.25,
        "frechet_distance": 410.0,
    }
    assert [(point.step, point.value) for point in store.get_metric_history(run_id, "after/loss")] == [(3, 0.25)]
    assert run.data.tags["mlflow.note.content"] == "## the note"
    assert run.data.tags["verdict"] == "pass"
    assert run.data.tags["picture/before"] == BEFORE
    assert run.data.tags["picture/after"] == AFTER
    files = tracked.mlflow / "artifacts" / run_id / "artifacts"
    assert sorted(str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()) == [
        "charts/frechet_distance.png",
        "documents/plan.json",
        "pictures/after/after.png",
        "pictures/before/before.png",
        "records/000001-decision.json",
    ]
    assert [path.name for path in picture_folder(tracked, run_id, "before").iterdir()] == ["before.png"]


def test_the_chart_follows_every_version(tracked: Workspace, tmp_path: Path) -> None:
    for version, distance in [(5, 430.0), (1, 400.0), (3, 410.0)]:
        run_id = _log(tracked, tmp_path, step_key=f"s{version}", version=version, distance=distance)
    open_run(tracked, name="unfinished", step_key="u", tags={})
    log_distance_chart(tracked, run_id)
    history = tracking.client(tracked).get_metric_history(run_id, "frechet_distance")
    assert [(point.step, point.value) for point in history] == [(1, 400.0), (3, 410.0), (5, 430.0)]
    with Image.open(tracked.mlflow / "artifacts" / run_id / "artifacts" / "charts" / "frechet_distance.png") as chart:
        assert chart.width > 400
        assert len(chart.convert("RGB").getcolors(1 << 20) or []) > 10


def test_a_chart_of_nothing_is_refused(tracked: Workspace) -> None:
    run_id = open_run(tracked, name="forget", step_key="s", tags={})
    with pytest.raises(StateError, match="no run has logged after/frechet_distance: there is nothing to draw"):
        log_distance_chart(tracked, run_id)
