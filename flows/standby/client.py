"""A command's side: hand the work over to the process that waits, if there is one, and wait for its exit code."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cdm_core.errors import StateError
from flows.standby.channel import Job, address_file, receive_message, send_job
from tasks.workspace import Workspace

_TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")


def hand_over(directory: Path, arguments: Sequence[str], *, quiet: bool = False) -> int | None:
    """Have the standby process of the workspace at `directory` run `lethe` with these arguments.

    Ctrl-C here interrupts it there. What it prints goes where this process prints, or nowhere if `quiet`.

    Returns:
        Its exit code; None if there is none that takes it, and the caller does the work itself.

    Raises:
        StateError: it took the work and ended without a word.
    """
    with ExitStack() as stack:
        try:
            streams = _open_output(stack, quiet=quiet)
        except OSError:  # they lead nowhere that another process could write to
            return None
        connection = _connect(Workspace(directory.resolve()))
        if connection is None:
            return None
        stack.enter_context(connection)
        terminal = {name: os.environ[name] for name in _TERMINAL if name in os.environ}
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            job = Job(arguments=list(arguments), directory=str(Path.cwd()), terminal=terminal)
            send_job(connection, job, streams)
            is_accepted = receive_message(connection) is not None
        except ConnectionError:
            return None
        return _wait_for_exit(connection) if is_accepted else None


def _open_output(stack: ExitStack, *, quiet: bool) -> list[int]:
    """Descriptors for what is printed to stdout and stderr."""
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        return [nowhere, nowhere]
    return [sys.stdout.fileno(), sys.stderr.fileno()]


def _wait_for_exit(connection: socket.socket) -> int:
    while True:
        try:
            message = receive_message(connection)
        except KeyboardInterrupt:
            connection.shutdown(socket.SHUT_WR)  # it is interrupted, tidies up, and says how it ended
            continue
        if message is None:
            raise StateError("the process that served this command was ended; run the same command again")
        return int(str(message["exit_code"]))


def _connect(ws: Workspace) -> socket.socket | None:
    try:
        address = address_file(ws).read_text()
        connection = socket.socket(socket.AF_UNIX)
    except OSError:
        return None
    try:
        connection.connect(address)
    except OSError:  # what an earlier one left, or one that has just been taken
        connection.close()
        return None
    return connection
