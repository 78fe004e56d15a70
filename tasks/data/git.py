"""The git command in a workspace: always as "Lethe", never with the user's own configuration, hooks or signing keys."""

import os
import subprocess
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
    # Without the caller's GIT_DIR and the like, which a git hook around us would have set for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _SETTINGS
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        return subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    except FileNotFoundError as error:
        raise StateError("git: not found; install it") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or f"exit code {error.returncode}").splitlines()[0]
        raise StateError(f"{root}: git {arguments[0]}: {reason}") from error
