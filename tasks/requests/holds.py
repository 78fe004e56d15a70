"""Holds: samples that may not be erased yet, on which ground and until when.

A hold exempts samples from deletion requests; they stay in packs and manifests, and shards go on being trained with them. What it covers
and its note lie in `.lethe/ledger/holds.json` as long as it counts; the ledger's event has its id, its ground from a closed set, its end,
and a salted commitment to the rest, by which an entry that was changed or taken out is found.

A request that touches held samples carries the rest out. When a hold is released or has expired, the requests that waited for it are put
back in the queue: their steps begin anew (`tasks.ledger.case`), on what is left to erase.
"""

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args
from uuid import uuid4

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from cdm_core.digests import Json, canonical_json, json_digest
from cdm_core.errors import InvalidInputError, StateError
from cdm_core.sharding.partition import compute_owner_key
from tasks.files import write_atomically
from tasks.keys import owner_secret
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.workspace import Workspace

Ground = Literal["legal_claim", "legal_obligation", "public_interest", "research", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What is held: samples by their ids, whoever's, and all samples of owners."""

    hold_id: str
    ground: Ground
    until: datetime
    sample_ids: tuple[str, ...]
    owner_keys: tuple[str, ...]
    note: str | None
    salt: str

    @property
    def commitment(self) -> str:
        """What the ledger has of it."""
        return json_digest(asdict(self) | {"until": self.until.isoformat()})


def add_hold(
    ws: Workspace, *, sample_ids: Collection[str], owner_ids: Collection[str], ground: str, until: datetime, note: str | None, now: datetime
) -> Hold:
    """Hold samples until a time.

    Raises:
        InvalidInputError: nothing is named, no such ground, or the time has passed.
    """
    if ground not in get_args(Ground):
        raise InvalidInputError(f"ground: must be one of {', '.join(get_args(Ground))}")
    if until <= now:
        raise InvalidInputError("until: has passed")
    samples = tuple(sorted({sample_id.lower().removeprefix("sha256:") for sample_id in sample_ids}))
    if not (samples or owner_ids):
        raise InvalidInputError("a hold needs a sample or an owner")
    if not all(len(sample_id) == 64 and set(sample_id) <= set("0123456789abcdef") for sample_id in samples):
        raise InvalidInputError("sample: must be a SHA-256 of 64 hexadecimal digits")
    hold = Hold(
        hold_id=str(uuid4()),
        ground=ground,  # type: ignore[arg-type]  # checked above
        until=until,
        sample_ids=samples,
        owner_keys=tuple(sorted({compute_owner_key(owner_secret(ws), owner_id) for owner_id in owner_ids})),
        note=note,
        salt=secrets.token_hex(16),
    )
    with exclusive_lock(ws.ledger / ".holds.lock"):
        holds = _load(ws)
        body: dict[str, Json] = {
            "hold_id": hold.hold_id,
            "ground": hold.ground,
            "until": until.isoformat(),
            "commitment": hold.commitment,
        }
        _save(ws, [*holds, hold])
        Ledger(ws).append("hold_added", None, body, now)
    return hold


def release_hold(ws: Workspace, hold_id: str, now: datetime) -> list[str]:
    """End a hold and forget what it covered; returns the requests that are put back in the queue.

    Raises:
        InvalidInputError: there is no such hold.
    """
    with exclusive_lock(ws.ledger / ".holds.lock"):
        holds = _load(ws)
        if hold_id not in {hold.hold_id for hold in holds}:
            raise InvalidInputError(f"{hold_id:.80}: no such hold; see: lethe hold list")
        return _end(ws, holds, {hold_id}, "hold_released", now)


def sweep_holds(ws: Workspace, now: datetime) -> list[str]:
    """End the holds that have expired; returns the requests that are put back in the queue."""
    if not _path(ws).is_file():
        return []
    with exclusive_lock(ws.ledger / ".holds.lock"):
        holds = _load(ws)
        expired = {hold.hold_id for hold in holds if hold.until <= now}
        return _end(ws, holds, expired, "hold_expired", now) if expired else []


def active_holds(ws: Workspace, now: datetime) -> list[Hold]:
    """The holds that count.

    Raises:
        StateError: the file isn't what the ledger says.
    """
    return [hold for hold in _load(ws) if hold.until > now]


def find_held(hits: pd.DataFrame, holds: Sequence[Hold]) -> tuple[pd.DataFrame, list[Hold]]:
    """Those rows of `hits` that are held, and by which holds."""
    by = {hold.hold_id: hits["sample_id"].isin(hold.sample_ids) | hits["owner_key"].isin(hold.owner_keys) for hold in holds}
    touching = [hold for hold in holds if bool(by[hold.hold_id].any())]
    rows = pd.Series(False, index=hits.index)
    for hold in touching:
        rows |= by[hold.hold_id]
    return hits[rows].reset_index(drop=True), touching


def describe_hold(hold: Hold) -> dict[str, Json]:
    """What a record or an answer says of a hold: neither its note nor what it covers."""
    return {"hold_id": hold.hold_id, "ground": hold.ground, "until": hold.until.isoformat()}


def _end(ws: Workspace, holds: Sequence[Hold], ended: Collection[str], kind: str, now: datetime) -> list[str]:
    ledger, requeued = Ledger(ws), []
    for hold_id in sorted(ended):
        ledger.append(kind, None, {"hold_id": hold_id}, now)
    _save(ws, [hold for hold in holds if hold.hold_id not in ended])
    for stored in ledger.requests():
        answer = stored.answer or {}
        waits_for = answer.get("holds", [])
        ids = {str(hold["hold_id"]) for hold in waits_for if isinstance(hold, dict)} if isinstance(waits_for, list) else set()
        if stored.status == "held" and ids & set(ended):
            ledger.append("requeued", stored.request_id, {"holds": sorted(ids & set(ended))}, now)
            ledger.set_status(stored.request_id, "received")
            requeued.append(stored.request_id)
    return requeued


def _load(ws: Workspace) -> list[Hold]:
    path = _path(ws)
    try:
        holds = TypeAdapter(list[Hold]).validate_python(json.loads(path.read_bytes())) if path.is_file() else []
    except (ValueError, ValidationError) as error:
        raise StateError(f"{path}: the list of holds is damaged; restore it from a backup") from error
    ledger = Ledger(ws)
    ended = {event.body["hold_id"] for kind in ("hold_released", "hold_expired") for event in ledger.events(kind=kind)}
    committed = {event.body["hold_id"]: event.body["commitment"] for event in ledger.events(kind="hold_added")}
    if {hold.hold_id: hold.commitment for hold in holds} != {key: value for key, value in committed.items() if key not in ended}:
        raise StateError(f"{path}: the holds aren't those that the ledger tells of; restore it from a backup")
    return holds


def _save(ws: Workspace, holds: Sequence[Hold]) -> None:
    content: Json = [asdict(hold) | {"until": hold.until.isoformat()} for hold in holds]
    write_atomically(_path(ws), canonical_json(content), mode=0o600)


def _path(ws: Workspace) -> Path:
    return ws.ledger / "holds.json"
