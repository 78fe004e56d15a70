"""Near duplicates: the pictures of a deletion as they stand under owners whom it doesn't name.

Exact ones have the same sample id. A near one differs in at most `hash_distance` bits of its perceptual hash and lies at most
`clip_distance` (one minus the cosine) from the erased picture in the shipped CLIP's space; both must hold, since drawings of one series
share their outlines and pictures of one thing share their meaning. What is listed is for a person to choose from; nothing is included by
itself. Every pack is read, and nothing is cached that would have to be erased; CLIP looks at what the hash leaves over.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError
from cdm_core.evaluation.perceptual_hash import compute_perceptual_hash
from cdm_core.sharding.manifests import drop_samples
from tasks.data.lookup import look_up
from tasks.data.manifest_store import load_manifests
from tasks.data.packs import load_pictures
from tasks.data.samples import pack_name
from tasks.files import write_atomically
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A sample of another owner, the erased sample it resembles most, and how far apart they are; both 0 for the same bytes."""

    sample_id: str
    owner_key: str
    shard: int
    duplicate_of: str
    differing_bits: int
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What `lethe plan` lists."""

    exact: tuple[Duplicate, ...]
    near: tuple[Duplicate, ...]


def parse_choice(text: str) -> str | tuple[str, ...]:
    """`none`, `exact`, or sample ids with commas between them.

    Raises:
        InvalidInputError: none of these.
    """
    if text in ("none", "exact"):
        return text
    ids = tuple(sorted({part.strip().lower().removeprefix("sha256:") for part in text.split(",")}))
    if any(len(sample_id) != 64 or set(sample_id) - set("0123456789abcdef") for sample_id in ids):
        raise InvalidInputError("include-duplicates: must be none, exact, or sample ids with commas between them")
    return ids


def find_duplicates(ws: Workspace, hits: pd.DataFrame) -> Duplicates:
    """Exact and near duplicates of the samples of `hits` under other owners."""
    exact = exact_duplicates(ws, hits)
    rows = pd.concat(load_manifests(ws).values(), ignore_index=True)
    others = drop_samples(rows, pd.concat([hits, exact]))
    # An owner whom the request names in part keeps the rest, alike or not: whoever asks knows their own pictures.
    others = others[~others["owner_key"].isin(hits["owner_key"])].reset_index(drop=True)
    listed = tuple(
        Duplicate(sample_id=sample, owner_key=owner, shard=int(shard), duplicate_of=sample, differing_bits=0, distance=0.0)
        for sample, owner, shard in zip(exact["sample_id"], exact["owner_key"], exact["shard"], strict=True)
    )
    return Duplicates(exact=listed, near=_find_near(ws, hits, others))


def exact_duplicates(ws: Workspace, hits: pd.DataFrame) -> pd.DataFrame:
    """The rows under other owners with the sample ids of `hits`."""
    return drop_samples(look_up(ws, sample_ids=set(hits["sample_id"])), hits)


def chosen_duplicates(ws: Workspace, hits: pd.DataFrame, choice: str | tuple[str, ...], *, was_kept: bool = False) -> pd.DataFrame:
    """The rows of other owners that a person chose to have erased too.

    A choice that `was_kept` was checked then: of it, samples that no other owner has any more are passed over, since they were erased.

    Raises:
        InvalidInputError: a chosen sample is not among the duplicates.
    """
    if choice == "none":
        return hits.iloc[:0]
    if choice == "exact":
        return exact_duplicates(ws, hits)
    rows = drop_samples(look_up(ws, sample_ids=choice), hits)
    if was_kept and rows.empty:
        return rows
    found = find_duplicates(ws, hits)
    listed = {(duplicate.owner_key, duplicate.sample_id) for duplicate in (*found.exact, *found.near)}
    wanted = set(rows["sample_id"]) if was_kept else set(choice)
    if unknown := wanted - {sample_id for _, sample_id in listed}:
        raise InvalidInputError(f"include-duplicates: {len(unknown)} of {len(choice)} samples are not duplicates that the plan lists")
    return rows[[pair in listed for pair in zip(rows["owner_key"], rows["sample_id"], strict=True)]].reset_index(drop=True)


def save_choice(ws: Workspace, request_id: str, choice: str | tuple[str, ...]) -> None:
    """Keep what was chosen until the request is closed, in place of an earlier choice."""
    write_atomically(ws.ledger / "plans" / _choice_name(request_id), json.dumps(choice).encode(), mode=0o600)


def load_choice(ws: Workspace, request_id: str) -> str | tuple[str, ...]:
    """What was chosen; nothing, if nobody did."""
    path = ws.ledger / "plans" / _choice_name(request_id)
    choice = json.loads(path.read_bytes()) if path.is_file() else "none"
    return choice if isinstance(choice, str) else tuple(choice)


def erase_choice(ws: Workspace, request_id: str) -> None:
    """Delete the kept choice, which may name samples."""
    (ws.ledger / "plans" / _choice_name(request_id)).unlink(missing_ok=True)


def hash_samples(ws: Workspace, rows: pd.DataFrame) -> list[int | None]:
    """Perceptual hashes of the samples of `rows` (owner key, sample id, shard), in their order."""
    return [compute_perceptual_hash(picture) for picture in _pictures(ws, rows)]


def _find_near(ws: Workspace, hits: pd.DataFrame, others: pd.DataFrame) -> tuple[Duplicate, ...]:
    limits = ws.settings().duplicates
    hit_pictures, other_pictures = _pictures(ws, hits), _pictures(ws, others)
    hit_rows, hit_hashes = _hashes(hit_pictures)
    other_rows, other_hashes = _hashes(other_pictures)
    pairs: list[tuple[int, int, int]] = []
    for hit_row, value in zip(hit_rows, hit_hashes, strict=True):
        bits = np.bitwise_count(other_hashes ^ value)
        pairs += [(int(hit_row), int(other_rows[at]), int(bits[at])) for at in np.flatnonzero(bits <= limits.hash_distance)]
    if not pairs:
        return ()
    hit_points, other_points = _embed(hit_pictures, {pair[0] for pair in pairs}), _embed(other_pictures, {pair[1] for pair in pairs})
    nearest: dict[int, Duplicate] = {}
    for hit_row, other_row, differing in pairs:
        distance = max(0.0, 1.0 - float(hit_points[hit_row] @ other_points[other_row]))
        known = nearest.get(other_row)
        if distance > limits.clip_distance or (known is not None and known.distance <= distance):
            continue
        other = others.iloc[other_row]
        nearest[other_row] = Duplicate(
            sample_id=other["sample_id"],
            owner_key=other["owner_key"],
            shard=int(other["shard"]),
            duplicate_of=hits.iloc[hit_row]["sample_id"],
            differing_bits=differing,
            distance=round(distance, 6),
        )
    return tuple(sorted(nearest.values(), key=lambda duplicate: (duplicate.distance, duplicate.owner_key, duplicate.sample_id)))


def _hashes(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows that show something, their hashes)."""
    values = [(row, value) for row, picture in enumerate(pictures) if (value := compute_perceptual_hash(picture)) is not None]
    return np.array([row for row, _ in values], dtype=np.int64), np.array([value for _, value in values], dtype=np.uint64)


def _embed(pictures: np.ndarray, rows: Iterable[int]) -> dict[int, np.ndarray]:
    import torch  # seconds to import, and most requests have no near candidate

    from cdm_core.clip import load_clip

    ordered = sorted(rows)
    points = load_clip().embed_pictures(torch.from_numpy(pictures[ordered]).float() / 127.5 - 1).numpy()
    return dict(zip(ordered, points, strict=True))


def _pictures(ws: Workspace, rows: pd.DataFrame) -> np.ndarray:
    """uint8 [N, 3, 32, 32]."""
    packed = rows.assign(pack=[pack_name(owner_key) for owner_key in rows["owner_key"]])
    pictures: np.ndarray = load_pictures(ws, packed).numpy()
    return pictures


def _choice_name(request_id: str) -> str:
    return f"{sha256_digest(request_id.encode())[:32]}.duplicates.json"
