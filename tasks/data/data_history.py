"""Which data objects each revision of a workspace refers to, read from the `.dvc` files and `dvc.lock` of its git history.

Reads references only; whether an object still exists, and what a directory object lists, is the stores' matter (`tasks.deletion.erasure`).
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypedDict

import yaml

from tasks.data.git import read_blobs, run_git
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


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both safe; in C where PyYAML was built with it: a history has hundreds of files


class _DataFile(TypedDict, total=False):
    """What is read of a `.dvc` file (outs) and of `dvc.lock` (stages)."""

    outs: list[_Entry]
    stages: dict[str, _Stage]


def references_now(ws: Workspace) -> set[Reference]:
    """References of the checked-out revision."""
    return {reference for name, content in _data_files_at(ws, "HEAD") for reference in parse_references(name, content)}


def outputs_at(ws: Workspace, revision: str) -> dict[str, str]:
    """The object id of each path at a revision: packs and manifests by their `.dvc` files, adapters by `dvc.lock`.

    What `dvc.lock` names as a stage's inputs isn't asked: between a change of data and the retraining those are the inputs of before.
    """
    outputs: dict[str, str] = {}
    for name, content in _data_files_at(ws, revision):
        document = _parse(content)
        entries = [*document.get("outs", []), *(entry for stage in document.get("stages", {}).values() for entry in stage.get("outs", []))]
        outputs |= {str(PurePosixPath(name).parent / entry["path"]): entry["md5"] for entry in entries if "md5" in entry}
    return outputs


def references_ever(ws: Workspace) -> set[Reference]:
    """References of every revision that git can still reach, by branches, tags or the log of where they have been."""
    objects = (line.partition(" ") for line in run_git(ws.root, "rev-list", "--all", "--reflog", "--objects").splitlines())
    blobs = [(blob, name) for blob, _, name in objects if _is_data_file(name)]
    contents = read_blobs(ws.root, [blob for blob, _ in blobs])
    return {reference for (_, name), content in zip(blobs, contents, strict=True) for reference in parse_references(name, content)}


def parse_references(name: str, content: str) -> set[Reference]:
    """References in one `.dvc` file or `dvc.lock`; `name` is its path, which those inside are relative to."""
    document = _parse(content)
    entries = list(document.get("outs", []))
    for stage in document.get("stages", {}).values():
        entries += stage.get("deps", []) + stage.get("outs", [])
    folder = PurePosixPath(name).parent
    return {Reference(path=str(folder / entry["path"]), object_id=entry["md5"]) for entry in entries if "md5" in entry}


def _data_files_at(ws: Workspace, revision: str) -> list[tuple[str, str]]:
    """(path, content) of each at a revision."""
    names = list(filter(_is_data_file, run_git(ws.root, "ls-tree", "-r", "-z", "--name-only", revision).split("\0")))
    return list(zip(names, read_blobs(ws.root, [f"{revision}:{name}" for name in names]), strict=True))


def _is_data_file(name: str) -> bool:
    # By suffix, since `.dvc` alone is DVC's own folder.
    return PurePosixPath(name).suffix == ".dvc" or PurePosixPath(name).name == "dvc.lock"


def _parse(content: str) -> _DataFile:
    loader = _LOADER(content)
    try:
        document: _DataFile | None = loader.get_single_data()
        return document or {}
    finally:
        loader.dispose()
