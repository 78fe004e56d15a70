"""Packs: all pictures of one owner in one shard, as one tar. Erasing an owner is deleting a file.

`<owner key>.tar` holds `<sample id>.png` and `<sample id>.txt` (the caption) for every sample, in name order, with no time, user or mode
of their own: the same samples make the same bytes, so a pack that didn't change keeps its object in the data store. A pack is read into
memory and never unpacked to disk; still, members are checked one by one, since a pack may come from somebody else's remote. And a file
is a pack only if packing its members again gives its bytes: tarfile stops in silence at a damaged header, and what comes after the
end would outlive an erasure.
"""

import io
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from tasks.data.pictures import PICTURE_SIZE
from tasks.files import write_atomically
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import torch

MAX_CAPTION_BYTES = 4096
MAX_PICTURE_BYTES = 64 * 1024
MAX_PACK_BYTES = 2**30

_MEMBER = re.compile(r"([0-9a-f]{64})\.(png|txt)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One picture (normalised PNG bytes) with its caption, and when it arrived (UTC)."""

    png: bytes
    caption: str
    arrived_at: datetime

    def __post_init__(self) -> None:
        if len(self.caption.encode()) > MAX_CAPTION_BYTES:
            raise InvalidInputError(f"caption {self.caption[:20]!r}…: longer than {MAX_CAPTION_BYTES} bytes")

    @property
    def sample_id(self) -> Digest:
        return sha256_digest(self.png)


def write_pack(path: Path, samples: Iterable[Sample]) -> None:
    """Make the pack of `samples`; of equal pictures the first one's caption is kept."""
    _write_members(path, _members(samples))


def add_to_pack(path: Path, samples: Iterable[Sample]) -> None:
    """Add `samples` to the pack, or make it; a picture that is there already keeps its caption."""
    present = _read_members(path) if path.exists() else {}
    _write_members(path, _members(samples) | present)


def remove_from_pack(path: Path, sample_ids: Collection[str]) -> None:
    """Rewrite the pack without `sample_ids`; a pack left empty is deleted. What isn't there is passed over."""
    if not path.exists():
        return
    members = _read_members(path)
    kept = {name: content for name, content in members.items() if name.partition(".")[0] not in sample_ids}
    if not kept:
        path.unlink()
    elif kept != members:
        _write_members(path, kept)


def read_pack(path: Path) -> dict[str, bytes]:
    """The pack's pictures: PNG bytes by sample id.

    Raises:
        InvalidInputError: there is no such file.
        VerificationError: not a pack, a foreign or oversized member, or a picture whose digest isn't its name.
    """
    return {name.removesuffix(".png"): content for name, content in _read_members(path).items() if name.endswith(".png")}


def parse_pack(content: bytes, source: str) -> dict[str, bytes]:
    """What `read_pack` gives, of a pack that lies in no file; `source` names it in errors.

    Raises:
        VerificationError: as `read_pack`.
    """
    return {name.removesuffix(".png"): member for name, member in _parse_members(content, source).items() if name.endswith(".png")}


def load_pictures(ws: Workspace, rows: pd.DataFrame) -> "torch.Tensor":
    """The pictures of manifest rows, in row order: uint8 [N, 3, 32, 32].

    Raises:
        InvalidInputError: a pack is missing.
        VerificationError: a pack fails `read_pack`, lacks a sample, or holds a picture of another form.
    """
    packs = {(shard, pack): read_pack(ws.packs(shard) / pack) for shard, pack in set(zip(rows["shard"], rows["pack"], strict=True))}
    return decode_pictures(packs, rows, ws.packs)


def decode_pictures(
    packs: Mapping[tuple[int, str], Mapping[str, bytes]], rows: pd.DataFrame, folder: Callable[[int], Path]
) -> "torch.Tensor":
    """The pictures of manifest rows out of packs' pictures by (shard, pack); `folder` gives where a shard's packs belong, for errors.

    Raises:
        VerificationError: a pack lacks a sample, or holds a picture of another form.
    """
    import torch  # seconds to import, and what only packs and unpacks needs none of it

    pictures = np.empty((len(rows), PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
    for row, (shard, pack, sample_id) in enumerate(zip(rows["shard"], rows["pack"], rows["sample_id"], strict=True)):
        if sample_id not in packs[shard, pack]:
            raise VerificationError(f"{folder(shard) / pack}: lacks sample {sample_id}, which the manifest names")
        with Image.open(io.BytesIO(packs[shard, pack][sample_id]), formats=("PNG",)) as image:
            if image.size != (PICTURE_SIZE, PICTURE_SIZE) or image.mode != "RGB":
                raise VerificationError(f"{folder(shard) / pack}: sample {sample_id} is not a 32×32 RGB picture")
            pictures[row] = np.asarray(image)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _members(samples: Iterable[Sample]) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for sample in samples:
        members.setdefault(f"{sample.sample_id}.png", sample.png)
        members.setdefault(f"{sample.sample_id}.txt", sample.caption.encode())
    return members


def _write_members(path: Path, members: dict[str, bytes]) -> None:
    write_atomically(path, _encode(members))


def _encode(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(members.items()):
            entry = tarfile.TarInfo(name)  # its time, user and group are zero
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def _read_members(path: Path) -> dict[str, bytes]:
    if not path.is_file():
        raise InvalidInputError(f"{path}: no such pack; get it with: dvc pull")
    if path.stat().st_size > MAX_PACK_BYTES:
        raise VerificationError(f"{path}: larger than {MAX_PACK_BYTES // 2**20} MB")
    return _parse_members(path.read_bytes(), str(path))


def _parse_members(packed: bytes, source: str) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
            for entry in tar:
                members[entry.name] = _read_member(source, tar, entry)
    except tarfile.TarError as error:
        raise VerificationError(f"{source}: not a pack: {error}") from error
    if _encode(members) != packed:
        raise VerificationError(f"{source}: not a pack: damaged, or not written by Lethe")
    return members


def _read_member(source: str, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    match = _MEMBER.fullmatch(entry.name)
    if match is None or not entry.isreg():
        raise VerificationError(f"{source}: member {entry.name!r} doesn't belong in a pack")
    sample_id, kind = match.groups()
    if entry.size > (MAX_PICTURE_BYTES if kind == "png" else MAX_CAPTION_BYTES):
        raise VerificationError(f"{source}: member {entry.name} is too large")
    file = tar.extractfile(entry)
    assert file is not None, "a regular member has content"
    content = file.read()
    if kind == "png" and sha256_digest(content) != sample_id:
        raise VerificationError(f"{source}: the content of {entry.name} doesn't match its name")
    return content
