"""Real commands beside a real server: a copy of a built workspace, a `lethe serve` beside it, and `lethe` in processes of their own."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm_core.errors import StateError
from flows.prefect_server import end_with_parent, free_port
from flows.standby.channel import address_file
from tasks.workspace import Workspace, open_workspace

_READY_SECONDS = 180.0
_STOP_SECONDS = 30.0
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A workspace, and the server beside it."""

    ws: Workspace
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_until_ready(self) -> None:
        """Until the process that takes the next command has loaded everything.

        Raises:
            StateError: the server ended, or takes too long.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not address_file(self.ws).is_file():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StateError(f"the server is not ready; its log: {self.log}")
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def served_copy(built: Path, place: Path, log: Path) -> Iterator[Served]:
    """A fresh copy of a built workspace at `place`, whatever is there, and a server that says in `log` what it does."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(built, place, symlinks=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            _lethe(place, "serve", "--port", str(free_port())),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in a terminal is for us: the server goes last
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
    try:
        yield Served(ws=open_workspace(place), process=server, log=log)
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _lethe(workspace: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flows.cli import main; main()", *arguments, "--workspace", str(workspace)]


def run_lethe(workspace: Path, *arguments: str) -> dict[str, Any]:
    """The document of a command in a process of its own.

    Raises:
        StateError: it failed; its last line is said.
    """
    ran = subprocess.run([*_lethe(workspace, *arguments), "--json"], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise StateError(f"lethe {arguments[0]}: {(ran.stderr.splitlines() or ['failed without a word'])[-1]}")
    document: dict[str, Any] = json.loads(ran.stdout)
    return document
