"""`lethe serve` as a process of its own, started from a folder that isn't the workspace, and questions to its Prefect server."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from flows.prefect_server import free_port
from tasks.workspace import Workspace

SERVE = """
import sys
from pathlib import Path
from flows.serve import run_serve
run_serve(Path(sys.argv[1]), int(sys.argv[2]), reconcile_seconds=float(sys.argv[3]), standby=sys.argv[4] == "True")
"""
RECONCILE_SECONDS = 4.0

_REPOSITORY = Path(__file__).resolve().parents[2]
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A workspace that is served; `log` holds what the process said."""

    ws: Workspace
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def ask(self, path: str, method: str = "POST") -> Any:
        """What Prefect's API answers; 503 means that its database is locked for the moment."""
        body, headers = (b"{}", {"content-type": "application/json"}) if method == "POST" else (None, {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", data=body, headers=headers, method=method)
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                time.sleep(0.5)
        raise AssertionError(f"{path}: still unavailable")

    def run_of(self, item: str) -> dict[str, Any]:
        """The flow run that was told to take in the item."""
        (run,) = [run for run in self.ask("flow_runs/filter") if run["parameters"].get("item") == item]
        return run

    def outcome(self, place: str, kind: str, nth: int = 1) -> dict[str, Any]:
        """The nth document of that kind in done/ or refused/, waited for."""

        def find() -> Path | None:
            paths = sorted((self.ws.inbox / place).glob(f"{kind}-*.json"), key=lambda path: path.stat().st_mtime)
            return paths[nth - 1] if len(paths) >= nth else None

        document: dict[str, Any] = json.loads(self.wait_for(find).read_text())
        return document

    def wait_for(self, find: Callable[[], _Found | None], seconds: float = 300) -> _Found:
        """What `find` finds, as soon as it does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            if found := find():
                return found
            time.sleep(0.1)
        raise AssertionError(f"nothing after {seconds:.0f} seconds; said: {self.log.read_text()}")

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process alone, and wait for its end."""
        self.process.send_signal(sign)
        return self.process.wait(timeout=60)

    def descendants(self) -> list[int]:
        """Ids of all processes that it started, and that those started."""
        found, left = [], [self.process.pid]
        while left:
            for children in Path(f"/proc/{left.pop()}/task").glob("*/children"):
                ids = [int(child) for child in _read_proc(children).split()]
                found += ids
                left += ids
        return found

    def prefect_server(self) -> int:
        """The id of the Prefect server's process."""
        (server,) = [process for process in self.descendants() if b"server\0start" in _read_proc(Path(f"/proc/{process}/cmdline"))]
        return server


def _read_proc(path: Path) -> bytes:
    """A file of /proc; empty, where the process has ended meanwhile."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def are_gone(processes: list[int]) -> bool:
    """Whether they all end within seconds."""
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{process}").exists() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def serve(ws: Workspace, *, standby: bool = False) -> Iterator[Served]:
    """Serve the workspace; whatever is left of it at the end is killed."""
    port, log = free_port(), ws.root.parent / "serve.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"PYTHONPATH": str(_REPOSITORY)}
    command = [sys.executable, "-c", SERVE, str(ws.root), str(port), str(RECONCILE_SECONDS), str(standby)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ws.root.parent, env=environment, stdout=output, stderr=output, start_new_session=True)
    served = Served(ws=ws, port=port, process=process, log=log)
    try:
        served.wait_for(lambda: "serving on" in log.read_text() or None)
        yield served
    finally:
        if process.poll() is None:
            process.kill()  # the server and the runs end with it
        process.wait()
