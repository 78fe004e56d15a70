"""`lethe serve` with a real Prefect server: from a file in the inbox through an event to its outcome, and nothing left running.

The tests of one module-wide server come in order: the last ones take its triggers away and stop it.
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_workspace import Served, serve
from tiny_workspace import ISSUER, OWNERS, draw_picture, lethe, make_workspace, signed_request, write_request

from cdm_core.errors import StateError
from flows.environment import configure_prefect
from flows.prefect_server import prefect_server
from tasks.inbox import create_inbox
from tasks.ledger import Ledger
from tasks.locks import exclusive_lock
from tasks.workspace import Workspace

OWNER = OWNERS[0].owner_id


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A workspace in which nothing is built."""
    with serve(make_workspace(tmp_path_factory.mktemp("served") / "ws")) as running:
        yield running


def requests(ws: Workspace) -> Path:
    return ws.inbox / "requests"


def put_forged(ws: Workspace, request_id: str) -> Path:
    """A request that a stranger signed."""
    path = write_request(requests(ws), request_id, owner_ids=[OWNER])
    path.with_name(path.name + ".sig").write_text("QUJD" * 21 + "QQ==")
    return path


def put_arrival(ws: Workspace, owner: object, num_pictures: int = 3) -> Path:
    folder = ws.inbox / "arrivals" / f"of {OWNER}"
    folder.mkdir()
    for index in range(num_pictures):
        (folder / f"{index}.png").write_bytes(draw_picture(20, index))
    (folder / "owner.json").write_text(json.dumps(owner))
    return folder


def test_a_request_file_is_dealt_with_through_its_event(served: Served) -> None:
    path = write_request(requests(served.ws), OWNER, owner_ids=[OWNER])
    outcome = served.outcome("refused", "request")
    assert (outcome["status"], outcome["reason"]) == ("refused", "unsigned")
    assert not path.exists()
    assert [event.body["reason"] for event in Ledger(served.ws).events(kind="refused")] == ["unsigned"]
    (run, *_) = served.runs_of(outcome["item"])
    assert run["created_by"]["type"] == "AUTOMATION"
    assert run["parameters"] == {"root": str(served.ws.root), "item": outcome["item"]}
    assert f"{outcome['item']} received\n{outcome['item']} refused: unsigned\n" in served.log.read_text()


def test_a_refused_arrival_stays_for_mending(served: Served) -> None:
    folder = put_arrival(served.ws, {"owner_id": OWNER, "tier": "cold"})
    outcome = served.outcome("refused", "arrival")
    assert (outcome["reason"], outcome["message"]) == ("bad_input", "owner.json: tier: Input should be a valid integer")
    assert sorted(file.name for file in folder.iterdir()) == ["0.png", "1.png", "2.png"]


def test_an_arrival_before_there_is_a_model_is_tried_again(served: Served) -> None:
    folder = put_arrival(served.ws, {"owner_id": OWNER}) if False else served.ws.inbox / "arrivals" / f"of {OWNER}"
    (folder / "owner.json").write_text(json.dumps({"owner_id": OWNER}))
    text = "failed and stays in the inbox: there is no model to teach; run: lethe build"
    served.wait_for(lambda: served.log.read_text().count(text) >= 2)
    assert (folder / "owner.json").exists()
    (folder / "owner.json").unlink()


def test_nothing_personal_is_said_or_kept_by_prefect(served: Served) -> None:
    kept = [path for path in served.ws.prefect.rglob("*") if path.is_file()]
    assert any(b"receive-request" in path.read_bytes() for path in kept)
    assert [path for path in [*kept, served.log] if OWNER.encode() in path.read_bytes()] == []


def test_commands_use_the_server_that_runs(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "before")
    monkeypatch.setenv("PREFECT_HOME", "before")
    configure_prefect(served.ws.prefect)
    import os

    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{served.port}/api"


def test_a_workspace_is_served_once(served: Served, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="already served by another process"), prefect_server(served.ws, 1):
        pass
    with pytest.raises(StateError, match=f"port {served.port}: Address already in use"), prefect_server(Workspace(tmp_path), served.port):
        pass


def test_a_lost_event_is_made_up_for(served: Served) -> None:
    for automation in served.ask("automations/filter"):
        served.ask(f"automations/{automation['id']}", "DELETE")
    earlier = {path.stem for path in (served.ws.inbox / "refused").iterdir()}
    put_forged(served.ws, "r-2")
    outcome = served.outcome("refused", "request", but=earlier)
    assert outcome["reason"] == "unknown_issuer"
    (run, *_) = served.runs_of(outcome["item"])
    assert run["tags"] == ["reconciled"]


def test_stopping_ends_every_process_and_loses_nothing(served: Served) -> None:
    with exclusive_lock(served.ws.inbox / ".lock"):  # so that its run waits
        path = put_forged(served.ws, "r-3")
        served.wait_for(lambda: [run for run in served.ask("flow_runs/filter") if run["state_type"] == "RUNNING"])
        started = served.descendants()
        assert len(started) >= 2  # the server and the run
        assert served.stop() == 0
    assert path.exists()
    assert not (served.ws.prefect / "server.url").exists()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in started):
        time.sleep(0.1)
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
