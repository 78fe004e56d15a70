"""The git command in a workspace: always as "Lethe", never with the user's own configuration, hooks or signing keys.

A git that is killed while it writes, by a power cut say, leaves its lock files, and every later one that writes fails. Of Lethe's commands
only flows write to a workspace's history, one at a time, so a lock is either such a leftover or a user's own command. It's taken for a
leftover, and deleted, once no git process works in the workspace and the file is `STALE_SECONDS` old: a process in another container isn't
seen, and few commands take so long. Until then whoever wants to write waits, and gives up after as many seconds.
"""

import io
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cdm_core.errors import StateError

STALE_SECONDS = 30.0
_POLL_SECONDS = 0.1

_SETTINGS = {
    "GIT_AUTHOR_NAME": "Lethe",
    "GIT_AUTHOR_EMAIL": "lethe@localhost",
    "GIT_COMMITTER_NAME": "Lethe",
    "GIT_COMMITTER_EMAIL": "lethe@localhost",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


def run_git(root: Path, *arguments: str) -> str:
    """Run git in `root`; returns what it printed.

    Raises:
        StateError: git is missing or fails.
    """
    return _run(root, arguments).decode()


def write_git(root: Path, *arguments: str) -> str:
    """The same for a command that changes index or history; what an earlier one left locked is freed first. Call it inside the flow's lock.

    Raises:
        StateError: git is missing or fails, or another git is at work there.
    """
    _free_locks(root)
    return run_git(root, *arguments)


def read_blobs(root: Path, names: Sequence[str]) -> list[str]:
    """The contents of files by their objects' ids, or as `<revision>:<path>`, by one process for all.

    Raises:
        StateError: git is missing or fails, or there is no such object.
    """
    output = io.BytesIO(_run(root, ["cat-file", "--batch"], "".join(f"{name}\n" for name in names).encode()))
    contents = []
    for name in names:
        header = output.readline().split()  # <id> blob <bytes>
        if header[-1:] == [b"missing"]:
            raise StateError(f"{root}: git cat-file: {name} is missing")
        contents.append(output.read(int(header[-1])).decode())
        output.read(1)  # the line's end
    return contents


def _run(root: Path, arguments: Sequence[str], given: bytes = b"") -> bytes:
    # Without the caller's GIT_DIR and the like, which a git hook around us would have set for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _SETTINGS
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        return subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, input=given).stdout
    except FileNotFoundError as error:
        raise StateError("git: not found; install it") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").strip() or f"exit code {error.returncode}").splitlines()[0]
        raise StateError(f"{root}: git {arguments[0]}: {reason}") from error


def _free_locks(root: Path) -> None:
    deadline = time.monotonic() + STALE_SECONDS
    while locks := _find_locks(root):
        if all(_age_seconds(path) >= STALE_SECONDS for path in locks) and not _is_git_at_work(root):
            for path in locks:
                path.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise StateError(f"{root}: git: another git command has locked {locks[0].relative_to(root)}; try again when it has ended")
        time.sleep(_POLL_SECONDS)


def _find_locks(root: Path) -> list[Path]:
    """Lock files of the index, of HEAD and the like, and of branches."""
    folder = root / ".git"
    return sorted([*folder.glob("*.lock"), *(folder / "refs" / "heads").rglob("*.lock")])


def _age_seconds(path: Path) -> float:
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return STALE_SECONDS  # gone meanwhile


def _is_git_at_work(root: Path) -> bool:
    """Whether a git process, of whoever's, that can be seen from here works in the workspace or below it."""
    for process in psutil.process_iter(["name", "cwd"]):
        name, folder = process.info["name"], process.info["cwd"]
        if name and name.startswith("git") and folder and Path(folder).is_relative_to(root.resolve()):
            return True
    return False
