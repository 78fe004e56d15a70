"""Arrivals: an owner's folder of pictures, taken in as samples.

The folder holds PNG or JPEG files and, optionally, `captions.csv` with the columns `file` and `caption`; without a caption a picture gets
the words of its file name. Everything is read and checked before anything is written, and what was once erased on request is refused
at the door, however it comes back. The door is asked again within the flow's lock, since a deletion may have ended meanwhile.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cdm_core.digests import Digest, json_digest
from cdm_core.errors import InvalidInputError, SuppressedError
from cdm_core.sharding.partition import OwnerKey, assign, compute_owner_key
from tasks.data.data_versions import Revision, commit_data
from tasks.data.manifest_store import load_manifest
from tasks.data.packs import Sample
from tasks.data.pictures import decode_picture, normalise_picture
from tasks.data.samples import add_samples
from tasks.deletion.suppression import is_near_suppressed, suppression_hash
from tasks.keys import owner_secret
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

CAPTIONS = "captions.csv"
_SUFFIXES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One owner's new samples and where they go; `digest` names the content, so that the same folder twice is one arrival."""

    owner_key: OwnerKey
    shard: int
    stage: int
    samples: tuple[Sample, ...]

    @property
    def digest(self) -> Digest:
        """Over owner key, place, sample ids and captions."""
        samples = sorted([sample.sample_id, sample.caption] for sample in self.samples)
        return json_digest({"owner_key": self.owner_key, "shard": self.shard, "stage": self.stage, "samples": samples})

    @property
    def request_id(self) -> str:
        """Under which the ledger and MLflow keep the arrival."""
        return f"arrival-{self.digest[:16]}"


def read_arrival(ws: Workspace, ledger: Ledger, folder: Path, owner_id: str, tier: str | int | None, now: datetime) -> Arrival:
    """Read an owner's folder; changes nothing.

    Raises:
        InvalidInputError: no folder, no picture in it, a damaged picture, captions that name no file, no such tier.
        SuppressedError: a picture was erased on request.
    """
    if not owner_id.strip():
        raise InvalidInputError("owner: must not be empty")
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise InvalidInputError(f"{folder}: no PNG or JPEG file in it")
    captions = _read_captions(folder / CAPTIONS, {path.name for path in files})
    samples = [
        Sample(png=normalise_picture(path.read_bytes(), path.name), caption=captions.get(path.name, _words(path.stem)), arrived_at=now)
        for path in files
    ]
    refuse_suppressed(ws, ledger, samples)
    owner_key = compute_owner_key(owner_secret(ws), owner_id)
    shard, stage = assign(owner_key, tier, ws.settings().partition)
    return Arrival(owner_key=owner_key, shard=shard, stage=stage, samples=tuple(samples))


def refuse_suppressed(ws: Workspace, ledger: Ledger, samples: Sequence[Sample]) -> None:
    """Return if no sample was erased on request, nor is a near copy of one that was.

    Raises:
        SuppressedError: some were; gives their number.
    """
    hashes = {suppression_hash(ws, sample.sample_id): sample for sample in samples}
    if found := ledger.is_suppressed(list(hashes)):
        raise SuppressedError(f"{len(found)} of {len(samples)} pictures were erased on request and may not come back")
    near = [sample for sample in samples if is_near_suppressed(ws, decode_picture(sample.png))]
    if near:
        raise SuppressedError(f"{len(near)} of {len(samples)} pictures are near copies of pictures that were erased on request")


def count_new(ws: Workspace, arrival: Arrival) -> int:
    """How many of the samples the owner doesn't have there yet."""
    manifest = load_manifest(ws, arrival.shard)
    known = set(manifest.loc[manifest["owner_key"] == arrival.owner_key, "sample_id"])
    return len({sample.sample_id for sample in arrival.samples} - known)


def store_arrival(ws: Workspace, arrival: Arrival) -> tuple[int, str]:
    """Add the samples to the owner's pack and the shard's manifest, and commit; returns (how many are new, the data revision)."""
    num_new = add_samples(ws, arrival.owner_key, arrival.shard, arrival.stage, arrival.samples)
    return num_new, commit_arrival(ws, arrival.shard, len(arrival.samples))


def commit_arrival(ws: Workspace, shard: int, num_samples: int) -> Revision:
    """Commit a shard to which an arrival was added; once that was done, it only mends a push that was cut short."""
    return commit_data(ws, [shard], arrival_message(num_samples))


def arrival_message(num_samples: int) -> str:
    """By which the commit of an arrival is known."""
    return f"Add {num_samples} samples of one owner"


def _read_captions(path: Path, files: set[str]) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path.name}: not UTF-8 at byte {error.start}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    captions = {}
    try:
        if not {"file", "caption"} <= set(rows.fieldnames or ()):
            raise InvalidInputError(f"{path.name}: needs the columns file and caption")
        for row in rows:
            if row["file"] not in files:
                raise InvalidInputError(f"{path.name}: line {rows.line_num}: no such picture in the folder")
            captions[row["file"]] = row["caption"] or ""
    except csv.Error as error:
        raise InvalidInputError(f"{path.name}: line {rows.reader.line_num}: {error}") from error
    return captions


def _words(stem: str) -> str:
    return " ".join(stem.replace("_", " ").replace("-", " ").split()).lower()
