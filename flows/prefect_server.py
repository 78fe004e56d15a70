"""The Prefect server of `lethe serve`, and of a command that runs a flow while nothing serves: one process in a session of its own, gone
when we are, however we end. The server that Prefect would start by itself outlives a command that is killed, and holds its pipes open.

A command uses the server of `lethe serve` where one runs: two would contend for one SQLite database, and its page shows all runs. That
server may end before the command. The flow's work goes on without it, since what counts lies in the ledger; reports are given up soon.

Leases of concurrency slots lie on disk: in memory, the default, a slot that was taken when the server stopped would never be free again.
"""

import atexit
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from cdm_core.errors import StateError
from flows.environment import SERVER_ADDRESS, SERVER_LOCK, configure_prefect
from tasks.files import write_atomically
from tasks.locks import claim_lock
from tasks.workspace import Workspace

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_PR_SET_PDEATHSIG = 1
_RETRIES = 3
"""Of a request to a server that is busy or gone, after 2, 4 and 8 seconds; and of an event at once, of which dozens may be left."""


@contextmanager
def prefect_server(ws: Workspace, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server for the workspace; within, this process and every `lethe` command in the workspace use it.

    Raises:
        StateError: one runs already, the port is taken, or it didn't come up; its log lies in Prefect's home.
    """
    ws.prefect.mkdir(parents=True, exist_ok=True)
    address = ws.prefect / SERVER_ADDRESS
    with claim_lock(ws.prefect / SERVER_LOCK, f"{ws.root}: already served by another process"):
        _check_port(port)
        server = _start(ws, port)
        try:
            _wait_until_healthy(server, port, str(_log(ws)))
            write_atomically(address, _api_url(port).encode())
            configure_prefect(ws.prefect)
            yield server
        finally:
            address.unlink(missing_ok=True)
            _stop(server)


@contextmanager
def session_server(ws: Workspace) -> Iterator[None]:
    """Within, Prefect has a server: the one that is configured, else one of this process's own, started once and ended with it.

    Runs send no heartbeats: ending the thread that does takes up to a second a run, and the ledger knows what was cut short.

    Raises:
        StateError: it didn't come up, or it ended and the flow couldn't.
    """
    from httpx import TransportError
    from prefect.settings import (  # reads its own settings now
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    address = PREFECT_API_URL.value()
    if address is None or _is_gone(address):  # it may have ended while this process waited for the flow's lock
        address = _own_server(ws)
    _give_up_events_soon()
    try:
        with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: _RETRIES, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    except (TransportError, RuntimeError) as error:
        if not isinstance(error, TransportError) and not isinstance(error.__cause__, TransportError):
            raise  # a bug
        raise StateError("the Prefect server ended; run the same command again") from error


def _is_gone(address: str) -> bool:
    """Whether nothing listens there any more; a server that is slow to answer is none of that."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return False
    except URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    except (OSError, HTTPException):
        return False


def _give_up_events_soon() -> None:
    """A process ends only after each of its events was sent or given up, which would take seconds each."""
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker

    EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=_RETRIES)
    logging.getLogger("EventsWorker").setLevel(logging.CRITICAL)  # else it says on stderr how many are left


@cache
def _own_server(ws: Workspace) -> str:
    port = free_port()
    server = _start(ws, port, "--no-services", "--no-ui")
    atexit.register(_stop, server)
    _wait_until_healthy(server, port, str(_log(ws)))
    return _api_url(port)


def _start(ws: Workspace, port: int, *options: str) -> "subprocess.Popen[bytes]":
    configure_prefect(ws.prefect)
    environment = os.environ | {"PREFECT_API_URL": _api_url(port), "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port), *options]
    ws.prefect.mkdir(parents=True, exist_ok=True)
    with _log(ws).open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ws.prefect,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in a terminal is for us: the server goes last
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )


def free_port() -> int:
    """One of this machine's that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> None:
    """Runs in the child: the kernel ends it when its parent ends, be it by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_healthy(server: "subprocess.Popen[bytes]", port: int, log: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{_api_url(port)}/health", timeout=5):
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
    raise StateError(f"the Prefect server did not start; its log: {log}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise StateError(f"port {port}: {error.strerror}; choose another") from error


def _api_url(port: int) -> str:
    return f"http://{_HOST}:{port}/api"


def _log(ws: Workspace) -> Path:
    return ws.prefect / "server.log"
