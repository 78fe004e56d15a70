"""The MLflow store of a workspace: one SQLite file and one artifacts folder, and the server that shows them.

Every client is given its address, so that MLflow's process-wide tracking URI stays untouched and two workspaces can be open in one
process. The database is created once, by `create_tracking`, before several processes use it: MLflow's migrations don't expect company.
The `mlflow/` folder at the top of the repository says the same in environment variables, for a server run without Lethe.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.entities import PagedList

from cdm_core.errors import StateError
from tasks.models.tracking_addresses import adopt_addresses
from tasks.workspace import Workspace

EXPERIMENT = "lethe"
MODEL = "lethe"
"""The registered model whose versions are the compositions."""

_Item = TypeVar("_Item")
_START_SECONDS = 90.0
_STOP_SECONDS = 10.0


def store_uri(ws: Workspace) -> str:
    """The absolute SQLite address: a relative one would depend on the working directory."""
    return f"sqlite:///{ws.mlflow}/mlflow.db"


def client(ws: Workspace) -> MlflowClient:
    """A client of the workspace's store, for tracking and registry alike; a workspace that was moved takes its artifacts along.

    Raises:
        StateError: the database isn't there; MLflow would otherwise create an empty one in silence.
    """
    if not (ws.mlflow / "mlflow.db").is_file():
        raise StateError(f"{ws.mlflow}: no MLflow database; make the workspace with: lethe init {ws.root}")
    adopt_addresses(ws.mlflow / "mlflow.db", EXPERIMENT, ws.mlflow / "artifacts")
    return MlflowClient(tracking_uri=store_uri(ws), registry_uri=store_uri(ws))


def create_tracking(ws: Workspace) -> None:
    """Create the database, the experiment and the registered model, whichever are missing."""
    artifacts = ws.mlflow / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    fresh = MlflowClient(tracking_uri=store_uri(ws), registry_uri=store_uri(ws))
    fresh.search_experiments(max_results=1)  # creates the tables
    adopt_addresses(ws.mlflow / "mlflow.db", EXPERIMENT, artifacts)
    if fresh.get_experiment_by_name(EXPERIMENT) is None:
        fresh.create_experiment(EXPERIMENT, artifact_location=artifacts.as_uri())
    try:
        fresh.get_registered_model(MODEL)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        fresh.create_registered_model(MODEL, description="Each version is one composition of shard adapters over the frozen backbone.")


def experiment_id(store: MlflowClient) -> str:
    """The id of the workspace's experiment.

    Raises:
        StateError: it was deleted.
    """
    experiment = store.get_experiment_by_name(EXPERIMENT)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise StateError(f"MLflow experiment {EXPERIMENT}: missing or deleted")
    return str(experiment.experiment_id)


def tag_equals(key: str, value: str) -> str:
    """The search filter for runs, models and versions that carry a tag; MLflow's grammar has no escape for a quote."""
    if "'" in value:
        raise ValueError(f"tag {key}: {value!r} holds a quote")
    return f"tags.{key} = '{value}'"


def all_pages(search: Callable[[str | None], PagedList[_Item]]) -> Iterator[_Item]:
    """Every result of a paged search; `search` takes the page token."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingServer:
    """A running MLflow server."""

    url: str
    process: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        """Return when the server ends by itself."""
        self.process.wait()

    def stop(self) -> None:
        """End the server and its worker; safe to call twice."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                # The server leads its own process group: the worker goes with it.
                os.killpg(self.process.pid, sign)
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                pass
            return


def serve_ui(ws: Workspace, port: int, *, say: Callable[[str], None]) -> TrackingServer:
    """Start the MLflow UI on 127.0.0.1 and wait until it answers; `say` is told the address.

    Raises:
        StateError: no database, the port is taken, or the server didn't come up; its log lies beside the database.
    """
    client(ws)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StateError(f"port {port}: {error.strerror}; choose another") from error
    log = ws.mlflow / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(ws), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--default-artifact-root", (ws.mlflow / "artifacts").as_uri()]
    # No job runner: it would add processes that Lethe has no use for.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ws.mlflow, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    server = TrackingServer(url=f"http://127.0.0.1:{port}", process=process)
    try:
        _wait_until_healthy(server, str(log))
    except BaseException:
        server.stop()
        raise
    say(server.url)
    return server


def _wait_until_healthy(server: TrackingServer, log: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=2):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise StateError(f"the MLflow server did not start; its log: {log}")
