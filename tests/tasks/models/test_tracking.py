"""The store of a workspace and the server that shows it."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.cli import server as server_command
from mlflow.entities import Metric
from mlflow.store.entities import PagedList

from cdm_core.errors import StateError
from tasks.models import tracking
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_package_is_the_real_one() -> None:
    assert "site-packages" in Path(mlflow.__file__).parts


def test_the_folder_named_mlflow_holds_no_python() -> None:
    assert (REPOSITORY / "mlflow" / "README.md").is_file()
    assert not list((REPOSITORY / "mlflow").rglob("*.py"))


def test_a_module_run_from_the_repository_finds_the_real_package() -> None:
    """`python -m` puts the working directory first on the path."""
    code = "from importlib.util import find_spec; print(find_spec('mlflow').origin)"
    printed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "site-packages" in printed


def _source(name: str, directory: Path) -> dict[str, str]:
    """The variables that a shell exports after sourcing a file of the mlflow folder."""
    script = f'set -ae; . "{REPOSITORY}/mlflow/{name}"; "{sys.executable}" -c "import json, os; print(json.dumps(dict(os.environ)))"'
    environment = {"PATH": os.environ["PATH"], "LETHE_POSTGRES_PASSWORD": "secret"}
    printed = subprocess.run(["sh", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(printed))


def test_the_sqlite_file_names_the_workspaces_own_store(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    variables = _source("sqlite.env", tmp_path)
    assert variables["MLFLOW_BACKEND_STORE_URI"] == tracking.store_uri(ws)
    assert variables["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == (ws.mlflow / "artifacts").as_uri()
    assert variables["MLFLOW_HOST"] == "127.0.0.1"


@pytest.mark.parametrize("name", ["sqlite.env", "postgres-s3.env"])
def test_every_variable_is_one_that_mlflow_reads(name: str, tmp_path: Path) -> None:
    known = {parameter.envvar for parameter in server_command.params} | set(vars(mlflow.environment_variables)) | {"DO_NOT_TRACK"}
    added = {key for key in _source(name, tmp_path) if key.startswith("MLFLOW_") or key == "DO_NOT_TRACK"}
    assert len(added) >= 8
    assert added <= known


def test_the_postgres_file_takes_its_password_from_outside(tmp_path: Path) -> None:
    assert _source("postgres-s3.env", tmp_path)["MLFLOW_BACKEND_STORE_URI"] == "postgresql://lethe:secret@postgres:5432/mlflow"


def test_importing_tasks_turns_telemetry_off() -> None:
    environment = {"PATH": os.environ["PATH"]}
    code = "import tasks.models.tracking, mlflow.telemetry.client as c; print(c.get_telemetry_client())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    printed = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "None"


def test_create_twice_makes_one_of_each(tracked: Workspace) -> None:
    before = tracking.client(tracked).get_registered_model(tracking.MODEL).creation_timestamp
    tracking.create_tracking(tracked)
    store = tracking.client(tracked)
    assert [found.name for found in store.search_experiments() if found.name != "Default"] == [tracking.EXPERIMENT]
    assert store.get_registered_model(tracking.MODEL).creation_timestamp == before


def test_artifacts_lie_in_the_workspace(tracked: Workspace) -> None:
    store = tracking.client(tracked)
    run = store.create_run(tracking.experiment_id(store))
    store.log_text(run.info.run_id, "text", "note.txt")
    assert (tracked.mlflow / "artifacts" / run.info.run_id / "artifacts" / "note.txt").read_text() == "text"


def test_the_process_wide_address_stays_untouched(tracked: Workspace) -> None:
    assert not mlflow.is_tracking_uri_set()
    assert mlflow.get_tracking_uri() != tracking.store_uri(tracked)


def test_a_client_without_a_database_is_refused_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no MLflow database; make the workspace with: lethe init"):
        tracking.client(Workspace(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_deleted_experiment_is_reported(tracked: Workspace) -> None:
    store = tracking.client(tracked)
    store.delete_experiment(tracking.experiment_id(store))
    with pytest.raises(StateError, match="MLflow experiment lethe: missing or deleted"):
        tracking.experiment_id(store)


def test_a_quote_in_a_searched_tag_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tag step_key: .* holds a quote"):
        tracking.tag_equals("step_key", "a' or tags.x = 'b")


def test_all_pages_follows_the_tokens(tracked: Workspace) -> None:
    store = tracking.client(tracked)
    experiment = tracking.experiment_id(store)
    made = {store.create_run(experiment).info.run_id for _ in range(5)}
    found = list(tracking.all_pages(lambda token: store.search_runs([experiment], max_results=2, page_token=token)))
    assert len(found) == 5
    assert {run.info.run_id for run in found} == made
    assert list(tracking.all_pages(lambda token: PagedList([], None))) == []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_ui_answers_and_stops(tracked: Workspace) -> None:
    store = tracking.client(tracked)
    run = store.create_run(tracking.experiment_id(store))
    store.log_batch(run.info.run_id, metrics=[Metric("m", 1.5, 0, 0)])
    said: list[str] = []
    port = _free_port()
    server = tracking.serve_ui(tracked, port, say=said.append)
    try:
        assert said == [server.url] == [f"http://127.0.0.1:{port}"]
        with urllib.request.urlopen(server.url) as answer:
            assert b"<html" in answer.read()
        assert MlflowClient(server.url).get_run(run.info.run_id).data.metrics == {"m": 1.5}
        with pytest.raises(StateError, match=f"port {port}: Address already in use; choose another"):
            tracking.serve_ui(tracked, port, say=said.append)
    finally:
        server.stop()
    server.wait()
    server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_damaged_database_is_reported(tracked: Workspace) -> None:
    (tracked.mlflow / "mlflow.db").write_text("not a database")
    with pytest.raises(StateError, match=r"mlflow\.db: file is not a database"):
        tracking.serve_ui(tracked, _free_port(), say=print)


def test_a_server_that_cannot_start_is_reported(tracked: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StateError, match=r"the MLflow server did not start; its log: .*server\.log"):
        tracking.serve_ui(tracked, _free_port(), say=print)
