"""Built workspaces, and ones that forgot somebody, as the fixtures hand them out."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_workspace import Owner, lethe
from workspace_snapshot import grid_cells

from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built workspace and what `lethe build` answered."""

    ws: Workspace
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A workspace after one request: who asked, what was answered, and how it was before."""

    ws: Workspace
    owner: Owner
    request: Path
    plan: dict[str, Any]
    answer: dict[str, Any]
    adapters_before: dict[int, bytes]
    pictures_before: list[tuple[int, bytes]]


def copy_workspace(ws: Workspace, directory: Path) -> Workspace:
    shutil.copytree(ws.root, directory, symlinks=True)
    return Workspace(directory)


def generate_cells(ws: Workspace, out: Path, *options: str) -> list[tuple[int, bytes]]:
    """(shard, pixels) of each of 24 pictures that the champion makes, always from the same seeds."""
    document = lethe(ws, "generate", "--num", "24", "--seed", "7", "--out", out, *options).document
    return list(zip([picture["shard"] for picture in document["per_image"]], grid_cells(out, 24), strict=True))
