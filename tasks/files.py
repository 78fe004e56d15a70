"""Files: replacing one so that a reader, or a crash, sees the old bytes or the new ones and nothing between.

What a person names, as after `--out`, is written by `write_output`, and looked at by `check_writable` before any work is done for it.
"""

import os
import shutil
from pathlib import Path

from cdm_core.errors import InvalidInputError

PARTIAL_PATTERN = ".*.partial"
"""Names of half-written files: ignored by git and DVC, and overwritten by the next attempt."""


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put `content` at `path`, on the disk before it is seen there; never readable by more than `mode` allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed name, not a random one: a crash leaves at most one such file, and the next attempt takes it over.
    partial = path.with_name(f".{path.name}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        try:
            os.fchmod(file.fileno(), mode)  # a partial file left by a crash may have had another
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _sync_directory(path.parent)


def write_output(path: Path, content: bytes) -> None:
    """Put `content` where a person asked for it.

    Raises:
        InvalidInputError: it can't be written there; what was there is unchanged.
    """
    place = check_writable(path)
    try:
        write_atomically(place, content)
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be written: {error.strerror}") from error


def check_writable(path: Path) -> Path:
    """Where a file that a person asks for will lie, links followed; folders that are missing above it are made when it's written.

    Raises:
        InvalidInputError: it can't be written there.
    """
    try:
        place = path.resolve()
        problem = _find_obstacle(place)
    except RuntimeError as error:  # what Python 3.11 raises for links that lead round in a circle
        raise InvalidInputError(f"{path}: can't be written: its links lead nowhere") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be written: {error.strerror}") from error
    if problem is not None:
        raise InvalidInputError(f"{path}: can't be written: {problem}")
    return place


def _find_obstacle(place: Path) -> str | None:
    if place.is_dir():
        return "is a folder"
    if place.exists() and not place.is_file():
        return "is not a file"
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir():
        return f"{above} is not a folder"
    return None if os.access(above, os.W_OK | os.X_OK) else f"{above} can't be written to"


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
