"""Files: replacing one so that a reader, or a crash, sees the old bytes or the new ones and nothing between."""

import os
import shutil
from pathlib import Path

PARTIAL_PATTERN = ".*.partial"
"""Names of half-written files: ignored by git and DVC, and overwritten by the next attempt."""


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put `content` at `path`, on the disk before it is seen there; never readable by more than `mode` allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed name, not a random one: a crash leaves at most one such file, and the next attempt takes it over.
    partial = path.with_name(f".{path.name}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # a partial file left by a crash may have had another
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def erase_folder(folder: Path) -> int:
    """Delete a folder with all files in it; returns how many there were."""
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return count
