"""The pictures that a request names by file: checked against leading out of its folder, and kept until the request is closed.

They are kept under digests of their names, which may be long, alike, or a person's. For that last reason a message, which the ledger may
keep, names a picture by its place in the request.
"""

from dataclasses import replace
from pathlib import Path

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError, StateError
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
        write_atomically(images_folder(ws, request.request_id) / _kept_name(name), content, mode=0o600)


def with_kept_images(ws: Workspace, request: DeletionRequest) -> DeletionRequest:
    """The request with its pictures named as they lie in its `images_folder`; earlier releases kept them under the names given."""
    folder = images_folder(ws, request.request_id)
    names = [kept if (folder / (kept := _kept_name(name))).is_file() else name for name in request.image_files]
    return replace(request, image_files=tuple(names))


def require_kept_images(ws: Workspace, request: DeletionRequest, folder: Path) -> None:
    """Return if the pictures beside the request file are those that were kept when it was received.

    Raises:
        RequestRefusedError: one is missing.
        StateError: they are others.
    """
    given = find_image_files(request, folder)
    kept = find_image_files(with_kept_images(ws, request), images_folder(ws, request.request_id))
    if list(given.values()) != list(kept.values()):
        raise StateError(f"request {request.request_id}: image_files: not the pictures that it was received with")


def find_image_files(request: DeletionRequest, folder: Path) -> dict[str, bytes]:
    """The bytes of the pictures that a request names by file, relative to the request's folder.

    Raises:
        RequestRefusedError: a file is missing, can't be read, is too large, or is a link that leads out of the folder.
    """
    found: dict[str, bytes] = {}
    for name in request.image_files:
        where = f"{request.request_id}: {describe_image(request, name)}"
        try:
            found[name] = found[name] if name in found else _read_image(folder, name, where)
        except (OSError, RuntimeError) as error:  # a name too long, a link to itself, a file that may not be read
            raise RequestRefusedError(f"{where}: can't be read", reason="image_missing") from error
    return found


def describe_image(request: DeletionRequest, name: str) -> str:
    """Says which of a request's pictures is meant, without its name."""
    return f"image_files.{request.image_files.index(name)}"


def _kept_name(name: str) -> str:
    return sha256_digest(name.encode())[:32]


def _read_image(folder: Path, name: str, where: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RequestRefusedError(f"{where}: leads out of the request's folder", reason="path_escape")
    if not path.is_file():
        raise RequestRefusedError(f"{where}: no such file", reason="image_missing")
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise RequestRefusedError(f"{where}: over {MAX_IMAGE_BYTES:,} bytes", reason="too_large")
    return path.read_bytes()
