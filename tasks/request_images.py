"""The pictures that a request names by file: checked against leading out of its folder, and kept until the request is closed."""

from pathlib import Path

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError
from cdm_core.requests import DeletionRequest
from tasks.files import write_atomically
from tasks.workspace import Workspace

MAX_IMAGE_BYTES = 20_000_000


def images_folder(ws: Workspace, request_id: str) -> Path:
    """Where the pictures that came with a request are kept until it is closed."""
    return ws.ledger / "images" / sha256_digest(request_id.encode())[:32]


def keep_images(ws: Workspace, request: DeletionRequest, folder: Path) -> None:
    """Copy the pictures that a request names: the flow may run later, from elsewhere."""
    for name, content in find_image_files(request, folder).items():
        kept = images_folder(ws, request.request_id) / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, content, mode=0o600)


def find_image_files(request: DeletionRequest, folder: Path) -> dict[str, bytes]:
    """The bytes of the pictures that a request names by file, relative to the request's folder.

    Raises:
        RequestRefusedError: a file is missing, too large, or a link that leads out of the folder.
    """
    found = {}
    for name in request.image_files:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise RequestRefusedError(f"{request.request_id}: image_files: {name}: leads out of the request's folder", reason="path_escape")
        if not path.is_file():
            raise RequestRefusedError(f"{request.request_id}: image_files: {name}: no such file", reason="image_missing")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise RequestRefusedError(f"{request.request_id}: image_files: {name}: over {MAX_IMAGE_BYTES:,} bytes", reason="too_large")
        found[name] = path.read_bytes()
    return found
