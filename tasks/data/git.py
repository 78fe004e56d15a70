"""The git command in a workspace: always as "Lethe", never with the user's own configuration, hooks or signing keys."""

import io
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cdm_core.errors import StateError

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
