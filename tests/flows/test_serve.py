"""`lethe serve` with a real Prefect server: from a file in the inbox through an event to its outcome, and nothing left running.

The tests of the module's one server come in order: the last ones take its triggers away and stop it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from served_workspace import Served, are_gone, free_port, serve
from tiny_workspace import OWNERS, draw_picture, lethe, make_workspace, signed_request, write_request

from cdm_core.errors import StateError
from flows.environment import configure_prefect
from flows.prefect_server import prefect_server
from tasks.clock import utc_now
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.requests.inbox import create_inbox
from tasks.workspace import Workspace

OWNER = OWNERS[0].owner_id


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A workspace in which nothing is built; an unsigned request lay in its inbox before."""
    ws = make_workspace(tmp_path_factory.mktemp("served") / "ws")
    create_inbox(ws)
    write_request(requests(ws), OWNER, owner_ids=[OWNER])
    with serve(ws) as running:
        yield running


def requests(ws: Workspace) -> Path:
    return ws.inbox / "requests"


def put_forged(ws: Workspace, request_id: str) -> Path:
    """A request that a stranger signed."""
    path = write_request(requests(ws), request_id, owner_ids=[OWNER])
    path.with_name(path.name + ".sig").write_text("QUJD" * 21 + "QQ==")
    return path


def put_arrival(ws: Workspace, owner: object) -> Path:
    """A folder of three pictures, by whose name its owner would be known."""
    folder = ws.inbox / "arrivals" / f"of {OWNER}"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(draw_picture(20, index))
    (folder / "owner.json").write_text(json.dumps(owner))
    return folder


def files_that_name_the_owner(*places: Path) -> list[Path]:
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    return [path for path in files if OWNER.encode() in path.read_bytes() or OWNER in path.name]


def test_a_request_file_is_dealt_with_through_its_event(served: Served) -> None:
    outcome = served.outcome("refused", "request")
    assert (outcome["status"], outcome["reason"]) == ("refused", "unsigned")
    served.wait_for(lambda: not list(requests(served.ws).iterdir()))
    assert [event.body["reason"] for event in Ledger(served.ws).events(kind="refused")] == ["unsigned"]
    run = served.run_of(outcome["item"])
    assert run["created_by"]["type"] == "AUTOMATION"
    assert run["parameters"] == {"root": str(served.ws.root), "item": outcome["item"]}
    served.wait_for(lambda: f"{outcome['item']} received\n{outcome['item']} refused: unsigned\n" in served.log.read_text())


@pytest.mark.slow
def test_a_refused_arrival_stays_for_mending(served: Served) -> None:
    folder = put_arrival(served.ws, {"owner_id": OWNER, "tier": "cold"})
    outcome = served.outcome("refused", "arrival")
    assert (outcome["reason"], outcome["message"]) == (
        "bad_input",
        "tier: must be one of contract, opt-in, opt-out, contested, or a stage's number from 0 to 1",
    )
    served.wait_for(lambda: not (folder / "owner.json").exists())
    assert sorted(file.name for file in folder.iterdir()) == ["0.png", "1.png", "2.png"]


def test_commands_use_the_server_that_runs_and_no_other(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "before")
    monkeypatch.setenv("PREFECT_API_URL", "before")
    address = served.ws.prefect / "server.url"
    (tmp_path / "server.url").write_text(address.read_text())  # as one that was killed leaves it
    configure_prefect(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "before"
    configure_prefect(served.ws.prefect)
    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{served.port}/api"


def test_a_second_server_is_refused(served: Served, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="already served by another process"), prefect_server(served.ws, 1):
        pass
    with pytest.raises(StateError, match=f"port {served.port}: Address already in use"), prefect_server(Workspace(tmp_path), served.port):
        pass


@pytest.mark.slow
def test_a_lost_event_is_made_up_for(served: Served) -> None:
    for automation in served.ask("automations/filter"):
        served.ask(f"automations/{automation['id']}", "DELETE")
    put_forged(served.ws, "r-2")
    outcome = served.outcome("refused", "request", nth=2)
    assert outcome["reason"] == "unknown_issuer"
    assert served.run_of(outcome["item"])["tags"] == ["reconciled"]


def test_stopping_ends_every_process_and_loses_nothing(served: Served) -> None:
    with exclusive_lock(served.ws.inbox / ".lock"):  # its run will wait for that
        path = put_forged(served.ws, "r-3")
        served.wait_for(lambda: [run for run in served.ask("flow_runs/filter") if run["state_type"] == "RUNNING"])
        started = served.descendants()
        assert len(started) >= 2  # the server and the run
        assert served.stop() == 0
    assert path.exists()
    assert not (served.ws.prefect / "server.url").exists()
    assert are_gone(started)


def test_nothing_personal_is_said_or_kept(served: Served) -> None:
    """Read after its end: a server that runs takes files of its own away while they are read."""
    served.stop()
    assert any(b"receive-request" in path.read_bytes() for path in served.ws.prefect.rglob("*.db*"))
    places = [served.ws.inbox / "done", served.ws.inbox / "refused", served.ws.prefect, served.log]
    assert files_that_name_the_owner(*places) == []


@pytest.mark.slow
def test_what_a_stop_cut_short_is_finished_by_the_next_start(tmp_path: Path) -> None:
    ws = make_workspace(tmp_path / "ws")
    create_inbox(ws)
    folder = put_arrival(ws, {"owner_id": OWNER})
    with serve(ws) as served:
        served.wait_for(lambda: "failed and stays in the inbox: there is no model to teach; run: lethe build" in served.log.read_text())
        build = [sys.executable, "-c", "from flows.cli import main; main()", "build", "--workspace", str(ws.root)]
        subprocess.run(build, check=True, capture_output=True)
        learned = served.outcome("done", "arrival")
        assert (learned["status"], learned["samples"]) == ("completed", 3)
        served.wait_for(lambda: not folder.exists())

        signed_request(ws, requests(ws), "r-1", owner_ids=[OWNER])
        served.wait_for(lambda: Ledger(ws).last("stopped", "r-1"))
        started = served.descendants()
        assert served.stop(signal.SIGINT) == 0
        assert are_gone(started)
        assert Ledger(ws).last("closed", "r-1") is None
    with serve(ws) as served:
        forgotten = served.outcome("done", "request")
        assert (forgotten["status"], forgotten["request_id"]) == ("completed", "r-1")
        assert len(Ledger(ws).events(kind="promotion_committed", request_id="r-1")) == 2  # the stop, and the end
        served.wait_for(lambda: not list(requests(ws).iterdir()))

        os.kill(served.prefect_server(), signal.SIGKILL)
        assert served.process.wait(timeout=120) != 0
        assert "StateError: the Prefect server ended; its log lies in" in served.log.read_text()
    assert files_that_name_the_owner(ws.inbox, ws.prefect, served.log) == []


@pytest.mark.slow
def test_a_command_outlives_the_server_that_it_uses(tmp_path: Path) -> None:
    """What it did counts, and it says so soon after."""
    ws = make_workspace(tmp_path / "ws")
    main = [sys.executable, "-c", "from flows.cli import main; main()"]
    subprocess.run([*main, "build", "--workspace", str(ws.root)], check=True, capture_output=True)
    request = signed_request(ws, tmp_path, "r-1", owner_ids=[OWNER])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with serve(ws) as served:
        submit = [*main, "submit", str(request), "--workspace", str(ws.root), "--json"]
        process = subprocess.Popen(submit, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        served.wait_for(lambda: Ledger(ws).last("stopped", "r-1"))
        assert served.stop() == 0
        out, err = process.communicate(timeout=300)
    assert (process.returncode, json.loads(out)["status"]) == (0, "completed")
    assert b"EventsWorker" not in err
    assert b"Traceback" not in err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hold_that_ends_puts_the_request_back_in_the_queue(tmp_path: Path) -> None:
    """Expired of itself, and released by a person; each request is then carried out and told anew. A stranger's file is refused once."""
    ws = make_workspace(tmp_path / "ws")
    create_inbox(ws)
    build = [sys.executable, "-c", "from flows.cli import main; main()", "build", "--workspace", str(ws.root)]
    subprocess.run(build, check=True, capture_output=True)
    expiring, released, hold = OWNERS[0], OWNERS[4], ("--ground", "legal_claim", "--until")
    hold_id = lethe(ws, "hold", "add", "--owner", released.owner_id, *hold, "2999-01-01").document["hold_id"]

    def status(request_id: str) -> str:
        stored = Ledger(ws).request(request_id)
        return stored.status if stored else "none"

    with serve(ws) as served:
        end = utc_now() + timedelta(seconds=180)
        lethe(ws, "hold", "add", "--owner", expiring.owner_id, *hold, end.isoformat())
        signed_request(ws, requests(ws), "r-1", owner_ids=[expiring.owner_id])
        served.wait_for(lambda: Ledger(ws).last("held", "r-1"))
        signed_request(ws, requests(ws), "r-2", owner_ids=[released.owner_id])
        put_forged(ws, "r-3")
        served.wait_for(lambda: Ledger(ws).last("held", "r-2"), 600)
        served.wait_for(lambda: status("r-1") == "completed", 600)
        assert utc_now() > end
        assert status("r-2") == "held"
        assert lethe(ws, "hold", "release", hold_id).document["requeued"] == ["r-2"]
        served.wait_for(lambda: status("r-2") == "completed", 600)
        served.wait_for(lambda: [served.outcome("done", "request", nth)["status"] for nth in (1, 2)] == ["completed", "completed"])
    ledger = Ledger(ws)
    for request_id, kind in (("r-1", "hold_expired"), ("r-2", "hold_released")):
        assert len(ledger.events(kind="requeued", request_id=request_id)) == 1
        assert len(ledger.events(kind=kind)) == 1
    assert len(ledger.events(kind="refused")) == 1  # though two runs looked at it
    assert ledger.verify()


@pytest.mark.slow
def test_a_server_that_cannot_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "before")  # set while starting, put back afterwards
    ws = Workspace(tmp_path)
    ws.prefect.mkdir(parents=True)
    (ws.prefect / "prefect.db").write_text("not a database " * 1000)
    with pytest.raises(StateError, match=r"the Prefect server did not start; its log: .*server\.log"), prefect_server(ws, free_port()):
        pass
    assert "not a database" in (ws.prefect / "server.log").read_text()
