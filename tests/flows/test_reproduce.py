"""An auditor's way: a fresh clone of the workspace, the data from its DVC remote, and `dvc repro` in place of our flows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from built_workspace import Built, Forgotten
from workspace_snapshot import read_adapters, tree_digests

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


def test_a_clone_finds_the_data(built: Built, tmp_path: Path) -> None:
    clone = _clone(built.ws, tmp_path)
    _run(clone.root, "dvc", "pull", "--quiet")
    assert tree_digests(clone.root / "data_packs") == tree_digests(built.ws.root / "data_packs")
    assert read_adapters(clone) == read_adapters(built.ws)


@pytest.mark.slow
def test_a_clone_makes_the_same_adapters(forgotten: Forgotten, tmp_path: Path) -> None:
    clone = _clone(forgotten.ws, tmp_path)
    # This workspace was moved since it was made, so its clone has to be told where the remote is now.
    _run(clone.root, "dvc", "remote", "modify", "--local", "local", "url", str(forgotten.ws.dvc_remote))
    sources = [f"{path}.dvc" for shard in range(3) for path in (clone.packs(shard), clone.manifest(shard))]
    _run(clone.root, "dvc", "pull", "--quiet", *sources)
    assert read_adapters(clone) == {}
    out = _run(clone.root, "dvc", "repro", "--force")
    assert out.count("lethe train-shard") == 3
    assert read_adapters(clone) == read_adapters(forgotten.ws)
    assert _run(clone.root, "dvc", "status") == "Data and pipelines are up to date.\n"
    # The auditor's lock file is the one that was committed: the same bytes went in and came out.
    assert _run(clone.root, "git", "diff", "--stat") == ""


def _clone(ws: Workspace, folder: Path) -> Workspace:
    _run(folder, "git", "clone", "--quiet", str(ws.root), "clone")
    return Workspace(folder / "clone")
