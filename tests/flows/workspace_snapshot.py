"""Looking at a workspace from outside: every file, whatever the product says about it."""

import hashlib
import io
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

from cdm_core.digests import sha256_digest
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

_CELL, _GUTTER, _COLUMNS = 96, 4, 8


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def tree_digests(root: Path, *, but: Collection[str] = ()) -> dict[str, str]:
    """The digest of every file and the names of all folders below `root`, but those under the paths `but`."""
    digests = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if any(name == prefix or name.startswith(f"{prefix}{os.sep}") for prefix in but):
            continue
        digests[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def readable_contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they say if they are compressed: git's objects and Parquet files."""
    content = path.read_bytes()
    yield content
    if ".git/objects" in path.as_posix() and not path.name.startswith(("pack-", "tmp_")):
        yield zlib.decompress(content)
    if content[:4] == b"PAR1":
        yield pd.read_parquet(io.BytesIO(content)).to_csv().encode()


def files_holding(root: Path, needles: Collection[str | bytes]) -> dict[str, list[str]]:
    """By file below `root`, which of the needles its name or its content holds."""
    wanted = {needle if isinstance(needle, str) else sha256_digest(needle): _as_bytes(needle) for needle in needles}
    found: dict[str, list[str]] = {}
    for path in all_files(root):
        contents = [str(path.relative_to(root)).encode(), *readable_contents(path)]
        if hits := [name for name, needle in wanted.items() if any(needle in content for content in contents)]:
            found[str(path.relative_to(root))] = hits
    return found


def files_with_digest(root: Path, digests: Collection[str]) -> list[str]:
    """Files below `root` whose SHA-256 is one of the digests."""
    return [str(path.relative_to(root)) for path in all_files(root) if sha256_digest(path.read_bytes()) in digests]


def read_adapters(ws: Workspace) -> dict[int, bytes]:
    return {shard: ws.adapter(shard).read_bytes() for shard in ws.settings().shard_ids if ws.adapter(shard).is_file()}


def event_kinds(ws: Workspace, request_id: str | None = None) -> list[str]:
    """What the ledger says happened, in order: all of it, or of one request; without the commitments to what that changed."""
    return [
        event.kind for event in Ledger(ws).events(request_id=request_id) if event.kind not in ("status", "suppression", "suppressed_bands")
    ]


def grid_cells(path: Path, num: int) -> list[bytes]:
    """The pixels of each picture of a sheet of eight columns."""
    with Image.open(path) as image:
        sheet = image.convert("RGB")
    step = _CELL + _GUTTER
    corners = [(number % _COLUMNS * step + _GUTTER, number // _COLUMNS * step + _GUTTER) for number in range(num)]
    return [sheet.crop((left, top, left + _CELL, top + _CELL)).tobytes() for left, top in corners]


def flip_byte(path: Path, position: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def _as_bytes(needle: str | bytes) -> bytes:
    return needle.encode() if isinstance(needle, str) else needle
