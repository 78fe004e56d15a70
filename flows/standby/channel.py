"""What a command and the standby process say to each other: JSON lines over a Unix socket, with the command's output streams.

1. command → standby: `{"arguments": [...], "directory": "...", "terminal": {...}}` and the descriptors of stdout and stderr;
2. standby → command: `{"accepted": true}`, or nothing if it can't take it;
3. standby → command: `{"exit_code": n}`.

The command ends its side to interrupt. The socket lies in a folder that only its user can enter, and the workspace names that folder: a
workspace's own path may be longer than the 107 bytes that a Unix address holds.
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from cdm_core.digests import Json
from tasks.workspace import Workspace

_CHUNK = 65536


def address_file(ws: Workspace) -> Path:
    """Where the workspace names the socket of the process that waits."""
    return ws.private / "standby.address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command: the arguments after `lethe`, the folder it was called in, and the variables that tell what its terminal can do."""

    arguments: list[str]
    directory: str
    terminal: dict[str, str]

    def to_line(self) -> bytes:
        """As it is sent."""
        return _to_line(asdict(self))

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """As it was sent."""
        return cls(**json.loads(line))


def send_job(connection: socket.socket, job: Job, streams: list[int]) -> None:
    """Send a job and its streams' descriptors."""
    line = job.to_line()
    sent = socket.send_fds(connection, [line], streams)
    if rest := line[sent:]:  # sending nothing fails where the other side is done already
        connection.sendall(rest)


def receive_job(connection: socket.socket) -> tuple[Job, list[int]] | None:
    """A job and its streams, or None where the other side ended before it had sent them."""
    line, streams, _, _ = socket.recv_fds(connection, _CHUNK, 2)
    while line and not line.endswith(b"\n"):
        more = connection.recv(_CHUNK)
        if not more:
            return None
        line += more
    return (Job.from_line(line), streams) if line else None


def send_message(connection: socket.socket, message: Mapping[str, Json]) -> None:
    """Send one line."""
    connection.sendall(_to_line(message))


def receive_message(connection: socket.socket) -> dict[str, Json] | None:
    """One line, or None where the other side ended. A line is short, and the next is sent after an answer or much later."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            byte = connection.recv(1)
        except ConnectionError:
            return None
        if not byte:
            return None
        line += byte
    message: dict[str, Json] = json.loads(line)
    return message


def _to_line(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"
