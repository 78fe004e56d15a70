"""A lock between processes, and between the threads of one."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdm_core.errors import StateError


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for it; the system frees it when the process ends, however it ends."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claim_lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file at `path`, or don't wait.

    Raises:
        StateError: someone holds it; `refusal` says what that means.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(refusal) from error
        yield


def is_locked(path: Path) -> bool:
    """Whether someone holds the lock file at `path`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
