"""Which data objects each revision of a workspace refers to, read from the `.dvc` files and `dvc.lock` of its git history.

Reads references only; whether an object still exists, and what a directory object lists, is the stores' matter (`tasks.deletion.erasure`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypedDict

import yaml

from tasks.data.git import run_git
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Something names `object_id` (MD5; a directory's ends in `.dir`) as the content of `path`, relative to the workspace."""

    path: str
    object_id: str


class _Entry(TypedDict):
    path: str
    md5: str


class _Stage(TypedDict, total=False):
    deps: list[_Entry]
    outs: list[_Entry]


class _DataFile(TypedDict, total=False):
    """What is read of a `.dvc` file (outs) and of `dvc.lock` (stages)."""

    outs: list[_Entry]
    stages: dict[str, _Stage]


def references_now(ws: Workspace) -> set[Reference]:
    """References of the checked-out revision."""
    names = run_git(ws.root, "ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")
    return {reference for name in _data_files(names) for reference in parse_references(name, run_git(ws.root, "show", f"HEAD:{name}"))}


def outputs_at(ws: Workspace, revision: str) -> dict[str, str]:
    """The object id of each path at a revision: packs and manifests by their `.dvc` files, adapters by `dvc.lock`.

    What `dvc.lock` names as a stage's inputs isn't asked: between a change of data and the retraining those are the inputs of before.
    """
    names = run_git(ws.root, "ls-tree", "-r", "-z", "--name-only", revision).split("\0")
    outputs: dict[str, str] = {}
    for name in _data_files(names):
        document: _DataFile = yaml.safe_load(run_git(ws.root, "show", f"{revision}:{name}")) or {}
        entries = [*document.get("outs", []), *(entry for stage in document.get("stages", {}).values() for entry in stage.get("outs", []))]
        outputs |= {str(PurePosixPath(name).parent / entry["path"]): entry["md5"] for entry in entries if "md5" in entry}
    return outputs


def references_ever(ws: Workspace) -> set[Reference]:
    """References of every revision that git can still reach, by branches, tags or the log of where they have been."""
    found: set[Reference] = set()
    for line in run_git(ws.root, "rev-list", "--all", "--reflog", "--objects").splitlines():
        blob, _, name = line.partition(" ")
        if list(_data_files([name])):
            found |= parse_references(name, run_git(ws.root, "cat-file", "blob", blob))
    return found


def parse_references(name: str, content: str) -> set[Reference]:
    """References in one `.dvc` file or `dvc.lock`; `name` is its path, which those inside are relative to."""
    document: _DataFile = yaml.safe_load(content) or {}
    entries = list(document.get("outs", []))
    for stage in document.get("stages", {}).values():
        entries += stage.get("deps", []) + stage.get("outs", [])
    folder = PurePosixPath(name).parent
    return {Reference(path=str(folder / entry["path"]), object_id=entry["md5"]) for entry in entries if "md5" in entry}


def _data_files(names: Iterable[str]) -> Iterator[str]:
    # By suffix, since `.dvc` alone is DVC's own folder.
    return (name for name in names if PurePosixPath(name).suffix == ".dvc" or PurePosixPath(name).name == "dvc.lock")
