"""The process that waits: `python -m flows.standby.process WORKSPACE`, started by `lethe serve`.

It reads `params.yaml`, and touches nothing else of the workspace before it's called: a database that was replaced while it waited must
not be found open here.
"""

import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

from cdm_core.digests import Digest, json_digest
from cdm_core.errors import LetheError
from flows.environment import configure_libraries
from flows.standby.channel import Job, address_file, receive_job, receive_message, send_message
from tasks.files import write_atomically
from tasks.workspace import Workspace

_LOADED = ["flows.cli", "flows.commands", "flows.forget", "flows.learn", "flows.resume", "tasks.requests.notifying"]
_LOADED += ["matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.ticker"]  # what no rehearsal uses


def wait_for_job(ws: Workspace) -> None:
    """Load everything, wait for one command, carry it out, tell its exit code."""
    configure_libraries()
    loaded = _describe_code()  # first: what changes while it loads counts as changed
    _prepare(ws)
    connection = _accept_one(ws)
    with connection:
        received = receive_job(connection)
        if received is None or _describe_code() != loaded:
            return
        job, streams = received
        send_message(connection, {"accepted": True})
        _take_over(job, streams)
        done = threading.Event()
        threading.Thread(target=_interrupt_with, args=(connection, done), daemon=True).start()
        code = _run(job.arguments)
        done.set()
        with suppress(OSError):  # nobody waits for it any more
            send_message(connection, {"exit_code": code})


def _prepare(ws: Workspace) -> None:
    """Load what a command needs, and have the workers' processes wait, too, with the networks that today's `params.yaml` names."""
    from tasks.training.workers import load_workers, prepare_pool

    load_workers()  # first: it goes on beside the rest
    for name in _LOADED:
        import_module(name)
    from tasks.models.rehearsal import rehearse_models
    from tasks.models.store_rehearsal import rehearse_stores

    with suppress(LetheError, OSError, BrokenProcessPool):  # whoever calls hears of it from the command itself
        with tempfile.TemporaryDirectory() as folder:
            rehearse_stores(Path(folder))
        prepare_pool(partial(rehearse_models, ws.settings()))


def _accept_one(ws: Workspace) -> socket.socket:
    """Listen where the workspace says, until one command connects."""
    with tempfile.TemporaryDirectory(prefix="lethe-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/standby")
        listener.listen(1)
        write_atomically(address_file(ws), f"{folder}/standby".encode())
        try:
            return listener.accept()[0]
        finally:
            address_file(ws).unlink(missing_ok=True)


def _take_over(job: Job, streams: list[int]) -> None:
    """Make the command's streams, folder and terminal this process's own."""
    for stream, descriptor in zip((sys.stdout, sys.stderr), streams, strict=True):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    os.chdir(job.directory)
    os.environ.update(job.terminal)


def _run(arguments: list[str]) -> int:
    """The exit code of `lethe` with these arguments."""
    from flows.cli import run

    try:
        code = run(arguments, is_standby=True)
    except KeyboardInterrupt:
        code = 130
    except Exception:  # a bug: its traceback belongs to whoever called the command
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _interrupt_with(connection: socket.socket, done: threading.Event) -> None:
    """Interrupt this process and its workers, as Ctrl-C in a terminal would, when the command that it works for ends its side too early."""
    if receive_message(connection) is None and not done.is_set():
        os.killpg(os.getpgrp(), signal.SIGINT)


def _describe_code() -> Digest:
    """What would show that this process runs other code than is installed now."""
    from tasks.training.fingerprints import measure_own_fingerprint

    packages = [Path(__file__).parents[2] / name for name in ("cdm_core", "tasks", "flows")]
    files = sorted(path for package in packages for path in package.rglob("*.py"))
    changed = {str(path): str(path.stat().st_mtime_ns) for path in files}
    return json_digest({"files": changed, "fingerprint": measure_own_fingerprint().digest})


if __name__ == "__main__":
    for sign in (signal.SIGINT, signal.SIGTERM):  # what it made is taken away, then; a server in a shell's background ignores the first
        signal.signal(sign, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        wait_for_job(Workspace(Path(sys.argv[1])))
