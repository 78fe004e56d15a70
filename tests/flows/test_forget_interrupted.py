"""A forget flow that is cut short, at any step, is gone on with by the same `lethe submit` and ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from built_workspace import Built, Forgotten, copy_workspace
from tiny_workspace import DOMAIN, lethe, owners_of, signed_request
from workspace_snapshot import event_kinds, files_holding, read_adapters

from cdm_core.composition.document import parse_composition
from cdm_core.digests import sha256_digest
from tasks.data.data_versions import is_up_to_date
from tasks.deletion import forgetting, purging
from tasks.evidence.records import load_records
from tasks.ledger.store import Ledger
from tasks.models import deciding
from tasks.models.model_registry import champion, composition_of
from tasks.workspace import Workspace

# In the order in which a flow comes by: what is about to happen when it's cut short.
_STEPS: list[tuple[str, object, str]] = [
    ("stop", forgetting, "stop_serving"),
    ("sign the stop", forgetting, "sign_record"),
    ("log the stop", forgetting, "log_stop"),
    ("promote the stopped version", forgetting, "promote_version"),
    ("remove the data", forgetting, "remove_samples"),
    ("commit the data", forgetting, "commit_data"),
    ("commit the training", forgetting, "commit_training"),
    ("register the candidate", deciding, "register"),
    ("sign the decision", deciding, "sign_record"),
    ("log the decision", deciding, "log_release"),
    ("promote the candidate", deciding, "promote_version"),
    ("erase from DVC", purging, "erase_objects"),
    ("erase from MLflow", purging, "erase_versions"),
    ("erase compositions", purging, "_erase_compositions"),
    ("sign the closing record", purging, "sign_record"),
    ("show the closing record", purging, "log_record"),
    ("write the closing", Ledger, "forget_content"),
    ("erase the plan", purging, "erase_kept"),
]


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the real one."""


def _cut(*arguments: object, **named: object) -> None:
    raise PowerCut


@pytest.mark.slow
def test_a_flow_that_is_cut_short_at_every_step_ends_as_one_that_was_not(
    copied: Workspace, forgotten: Forgotten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = signed_request(copied, tmp_path, owner_ids=[forgotten.owner.owner_id])
    for _name, module, function in _STEPS:
        with monkeypatch.context() as patch:
            patch.setattr(module, function, _cut)
            with pytest.raises(PowerCut):
                lethe(copied, "submit", request)
    answer = lethe(copied, "submit", request).document
    assert answer["status"] == "completed"
    assert answer["purged"] == forgotten.answer["purged"]
    assert event_kinds(copied, request.stem) == event_kinds(forgotten.ws, forgotten.request.stem)
    assert read_adapters(copied) == read_adapters(forgotten.ws)
    assert champion(copied).composition == champion(forgotten.ws).composition  # type: ignore[union-attr]
    assert len(load_records(copied)) == len(load_records(forgotten.ws)) == 4
    assert [lethe(None, "verify", path).document["valid"] for path in answer["audit_records"]] == [True] * 3
    assert is_up_to_date(copied)
    gone = [*forgotten.owner.sample_ids, *(picture.png for picture in forgotten.owner.pictures), DOMAIN]
    assert files_holding(copied.root, gone) == {}


@pytest.mark.slow
def test_until_the_decision_is_logged_the_stopped_version_serves(
    copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = signed_request(copied, tmp_path, owner_ids=[owners_of(0, 1)[0].owner_id])
    with monkeypatch.context() as patch:
        patch.setattr(deciding, "log_release", _cut)
        with pytest.raises(PowerCut):
            lethe(copied, "submit", request)
    ledger = Ledger(copied)
    stopped = ledger.last("stopped", request.stem)
    assert stopped is not None
    assert champion(copied).version == stopped.body["version"]  # type: ignore[union-attr]
    assert lethe(copied, "status", request.stem).document["requests"][0]["status"] == "retraining"
    # Another request finds it half done, and finishes it first.
    other = signed_request(copied, tmp_path, owner_ids=[owners_of(1, 1)[0].owner_id])
    assert lethe(copied, "submit", other).document["status"] == "completed"
    assert lethe(copied, "status", request.stem).document["requests"][0]["status"] == "completed"
    kinds = [(event.kind, event.request_id) for event in ledger.events() if event.kind in ("planned", "closed")]
    assert kinds == [("planned", request.stem), ("closed", request.stem), ("planned", other.stem), ("closed", other.stem)]


@pytest.mark.slow
def test_killed_while_retraining(built: Built, tmp_path: Path) -> None:
    """Really killed, really in another process; its shard has no clean checkpoint, since the owner was in the first stage."""
    ws, owner = copy_workspace(built.ws, tmp_path / "ws"), owners_of(0, 0)[0]
    request = signed_request(ws, tmp_path, owner_ids=[owner.owner_id])
    mark = str(uuid4())
    before = {path.name for path in ws.checkpoints.iterdir()}
    with _submit(ws, request, mark) as process:
        _wait(lambda: "removed" in event_kinds(ws, request.stem), process)
        _wait(
            lambda: bool({path.name for path in ws.checkpoints.iterdir()} - before) or "decided" in event_kinds(ws, request.stem), process
        )
        os.kill(process.pid, signal.SIGKILL)
    assert "decided" not in event_kinds(ws, request.stem), "killed too late: it was done with retraining"
    _wait(lambda: not _processes_with(mark))  # nothing that it started lives on

    stopped = champion(ws)
    assert stopped is not None
    assert parse_composition(composition_of(ws, stopped.version)).shards == (1, 2)
    planned = Ledger(ws).last("planned", request.stem)
    assert planned is not None
    assert lethe(ws, "submit", request).document["status"] == "completed"
    promoted = [event.body["version"] for event in Ledger(ws).events(request_id=request.stem, kind="promotion_committed")]
    assert promoted == [stopped.version, champion(ws).version]  # type: ignore[union-attr]
    training, retrained = (Ledger(ws).last(kind, request.stem) for kind in ("training", "retrained"))
    assert training is not None
    assert retrained is not None
    assert retrained.body["steps"] == training.body["steps"] == planned.body["steps"]
    for kind in ("stopped", "training", "removed", "decided", "purged", "closed"):
        assert event_kinds(ws, request.stem).count(kind) == 1
    assert len(load_records(ws)) == 4
    composition = parse_composition(composition_of(ws, promoted[-1]))
    assert [expert.adapter for expert in composition.experts] == [
        sha256_digest(adapter) for _, adapter in sorted(read_adapters(ws).items())
    ]
    # The process that was killed had Prefect's database in the workspace.
    assert (ws.prefect / "prefect.db").is_file()
    gone = [*owner.sample_ids, *(picture.png for picture in owner.pictures), DOMAIN]
    assert files_holding(ws.root, gone) == {}


def _submit(ws: Workspace, request: Path, mark: str) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"LETHE_TEST_MARK": mark}
    command = [str(Path(sys.executable).with_name("lethe")), "submit", str(request), "--workspace", str(ws.root), "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def _wait(condition: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, f"the command ended: {process.communicate() if process else None}"
        time.sleep(0.01)


def _processes_with(mark: str) -> list[int]:
    """Every process, of whatever parent, that inherited the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
