"""`lethe serve` as a process of its own, started from a folder that isn't the workspace, and questions to its Prefect server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.workspace import Workspace

SERVE = """
import sys
from pathlib import Path
from flows.serve import run_serve
run_serve(Path(sys.argv[1]), int(sys.argv[2]), reconcile_seconds=float(sys.argv[3]))
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
        """What Prefect's API answers."""
        body, headers = (b"{}", {"content-type": "application/json"}) if method == "POST" else (None, {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", data=body, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def runs_of(self, item: str) -> list[dict[str, Any]]:
        return [run for run in self.ask("flow_runs/filter") if run["parameters"].get("item") == item]

    def outcome(self, place: str, kind: str, *, but: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
        """The next document of that kind in done/ or refused/, waited for."""

        def find() -> dict[str, Any] | None:
            for path in (self.ws.inbox / place).glob(f"{kind}-*.json"):
                if path.stem not in but:
                    found: dict[str, Any] = json.loads(path.read_text())
                    return found
            return None

        return self.wait_for(find)

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
                ids = [int(child) for child in children.read_text().split()]
                found += ids
                left += ids
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(ws: Workspace) -> Iterator[Served]:
    """Serve the workspace; whatever is left of it at the end is killed."""
    port, log = free_port(), ws.root.parent / "serve.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"PYTHONPATH": str(_REPOSITORY)}
    command = [sys.executable, "-c", SERVE, str(ws.root), str(port), str(RECONCILE_SECONDS)]
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
