"""The pictures that a request names by file: checked against leading out of its folder, and kept until the request is closed."""

from pathlib import Path

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError
from cdm_core.intake.requests import DeletionRequest
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
        RequestRefusedError: a file is missing, can't be read, is too large, or is a link that leads out of the folder.
    """
    found = {}
    for name in request.image_files:
        try:
            found[name] = _read_image(folder, name, f"{request.request_id}: image_files: {name}")
        except (OSError, RuntimeError) as error:  # a name too long, a link to itself, a file that may not be read
            raise RequestRefusedError(f"{request.request_id}: image_files: {name[:80]}: can't be read", reason="image_missing") from error
    return found


def _read_image(folder: Path, name: str, where: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RequestRefusedError(f"{where}: leads out of the request's folder", reason="path_escape")
    if not path.is_file():
        raise RequestRefusedError(f"{where}: no such file", reason="image_missing")
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise RequestRefusedError(f"{where}: over {MAX_IMAGE_BYTES:,} bytes", reason="too_large")
    return path.read_bytes()
