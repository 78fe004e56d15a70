"""An auditor's way: a fresh clone of the workspace, the data from its DVC remote, and `dvc repro` in place of our flows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten
from workspace_snapshot import read_adapters

from tasks.workspace import Workspace

_SCRIPTS = Path(sys.executable).parent


def _run(directory: Path, *command: str) -> str:
    """As in a shell in which the environment's programs are found."""
    environment = os.environ | {"PATH": f"{_SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("state", ["built", "forgotten"])
def test_dvc_itself_says_up_to_date(built: Built, forgotten: Forgotten, state: str) -> None:
    ws = built.ws if state == "built" else forgotten.ws
    assert _run(ws.root, "dvc", "status") == "Data and pipelines are up to date.\n"
    assert _run(ws.root, "git", "status", "--porcelain") in ("", " M params.yaml\n")


@pytest.mark.slow
def test_a_clone_makes_the_same_adapters(forgotten: Forgotten, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    _run(tmp_path, "git", "clone", "--quiet", str(forgotten.ws.root), str(clone))
    sources = [str(path.relative_to(clone)) for folder in ("data_packs", "data_manifests") for path in (clone / folder).glob("*.dvc")]
    _run(clone, "dvc", "pull", "--quiet", *sources)
    assert read_adapters(Workspace(clone)) == {}
    out = _run(clone, "dvc", "repro", "--force")
    assert out.count("lethe train-shard") == 3
    assert read_adapters(Workspace(clone)) == read_adapters(forgotten.ws)
    assert _run(clone, "dvc", "status") == "Data and pipelines are up to date.\n"
    # The auditor's lock file is the one that was committed: the same bytes went in and came out.
    assert _run(clone, "git", "diff", "--stat") == ""
