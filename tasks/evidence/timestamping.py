"""Asking a time-stamp authority: over HTTP, or by a local command such as `openssl ts`."""

import subprocess
import tempfile
import urllib.request
from pathlib import Path
from urllib.error import URLError

from cdm_core.errors import StateError
from cdm_core.evidence.timestamps import build_timestamp_request, verify_timestamp
from cdm_core.settings import TimestampingSettings
from tasks.workspace import Workspace

_TIMEOUT_SECONDS = 30
_MAX_RESPONSE_BYTES = 1_000_000


def load_authorities(ws: Workspace) -> dict[str, str]:
    """The configured authority's name and root certificate; empty where none is configured.

    Raises:
        StateError: the certificate can't be read.
    """
    settings = ws.settings().timestamping
    if settings is None:
        return {}
    path = ws.root / settings.certificate
    try:
        return {settings.name: path.read_text("ascii")}
    except (OSError, ValueError) as error:
        raise StateError(f"{path}: the time-stamp authority's certificate can't be read") from error


def request_timestamp(ws: Workspace, message: bytes) -> bytes | None:
    """The authority's response over `message`, checked as it comes in; None where no authority is configured.

    Raises:
        StateError: the authority doesn't answer.
        VerificationError: what it answers doesn't hold.
    """
    settings = ws.settings().timestamping
    if settings is None:
        return None
    query = build_timestamp_request(message)
    response = _post(settings.url, query) if settings.url else _run(ws, settings, query)
    verify_timestamp(response, message, list(load_authorities(ws).values()))
    return response


def _post(url: str, query: bytes) -> bytes:
    request = urllib.request.Request(url, data=query, headers={"Content-Type": "application/timestamp-query"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read(_MAX_RESPONSE_BYTES)
    except (URLError, OSError, ValueError) as error:
        raise StateError(f"time-stamp authority {url}: doesn't answer: {error}") from error
    return content


def _run(ws: Workspace, settings: TimestampingSettings, query: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        names = {"{query}": Path(folder) / "query.tsq", "{reply}": Path(folder) / "reply.tsr"}
        names["{query}"].write_bytes(query)
        command = [str(names.get(part, part)) for part in settings.command or ()]
        try:
            subprocess.run(command, cwd=ws.root, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
            return names["{reply}"].read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise StateError(f"time-stamp authority {settings.name}: the command {command[0]} failed") from error
