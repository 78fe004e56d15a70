"""Holds: samples that may not be erased yet, on which ground and until when.

A hold exempts samples from deletion requests; they stay in packs and manifests, and shards go on being trained with them. What it covers
and its note lie in `.lethe/ledger/holds.json` as long as it counts; the ledger's event has its id, its ground from a closed set, its end,
and a salted commitment to the rest, by which an entry that was changed or taken out is found.

A request that touches held samples carries the rest out. When a hold is released or has expired, the requests that waited for it are put
back in the queue: their steps begin anew (`tasks.ledger.case`), on what is left to erase. A hold may end while a request's flow runs,
which then says that it waits for a hold that is no more; so what goes back is found by what is told of it, at every sweep.

The list is changed in three steps: the new one is written beside it, the ledger is told in one transaction, the new one takes its place.
After a crash the ledger tells which of the two counts. All that read or write take the lock of the holds, inside the flow's lock where
that is taken, and never inside a transaction of the ledger.
"""

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from tasks.ledger.store import Ledger, StoredRequest
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
    body: dict[str, Json] = {
        "hold_id": hold.hold_id,
        "ground": hold.ground,
        "until": until.isoformat(),
        "commitment": hold.commitment,
    }
    with _locked(ws) as ledger, _replacing(ws, ledger, [*_load(ws, ledger), hold]):
        ledger.append("hold_added", None, body, now)
    return hold


def release_hold(ws: Workspace, hold_id: str, now: datetime) -> list[str]:
    """End a hold and forget what it covered; returns the requests that are put back in the queue.

    Raises:
        InvalidInputError: there is no such hold.
    """
    with _locked(ws) as ledger:
        holds = _load(ws, ledger)
        if hold_id not in {hold.hold_id for hold in holds}:
            raise InvalidInputError(f"{hold_id:.80}: no such hold; see: lethe hold list")
        return _end(ws, ledger, holds, {hold_id}, "hold_released", now)


def sweep_holds(ws: Workspace, now: datetime) -> list[str]:
    """End the holds that have expired; returns the requests that are put back in the queue, for these and for holds that ended before."""
    if not _has_list(ws):
        return []  # there never was a hold
    with _locked(ws) as ledger:
        holds = _load(ws, ledger)
        expired = {hold.hold_id for hold in holds if hold.until <= now}
        return _end(ws, ledger, holds, expired, "hold_expired", now) if expired or _find_freed(ledger, holds) else []


def active_holds(ws: Workspace, now: datetime) -> list[Hold]:
    """The holds that count.

    Raises:
        StateError: the file isn't what the ledger says.
    """
    if not _has_list(ws) and not _told(Ledger(ws)):
        return []  # and not even a lock is made: whoever plans changes nothing
    with _locked(ws) as ledger:
        return [hold for hold in _load(ws, ledger) if hold.until > now]


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


def _has_list(ws: Workspace) -> bool:
    return _path(ws).is_file() or _upcoming(ws).is_file()


@contextmanager
def _locked(ws: Workspace) -> Iterator[Ledger]:
    """Nobody else reads or changes the holds meanwhile."""
    ledger = Ledger(ws)
    with exclusive_lock(ws.ledger / ".holds.lock"):
        yield ledger


def _end(ws: Workspace, ledger: Ledger, holds: Sequence[Hold], ended: Collection[str], kind: str, now: datetime) -> list[str]:
    left = [hold for hold in holds if hold.hold_id not in ended]
    with _replacing(ws, ledger, left):
        for hold_id in sorted(ended):
            ledger.append(kind, None, {"hold_id": hold_id}, now)
        freed = _find_freed(ledger, left)
        for request_id, hold_ids in freed.items():
            ledger.append("requeued", request_id, {"holds": list(hold_ids)}, now)
            ledger.set_status(request_id, "received")
    return list(freed)


def _find_freed(ledger: Ledger, holds: Sequence[Hold]) -> dict[str, list[str]]:
    """The requests that wait for a hold that isn't among these any more, and for which."""
    active = {hold.hold_id for hold in holds}
    ended = {stored.request_id: sorted(_awaited(stored) - active) for stored in ledger.requests(status="held")}
    return {request_id: hold_ids for request_id, hold_ids in ended.items() if hold_ids}


def _awaited(stored: StoredRequest) -> set[str]:
    holds = (stored.answer or {}).get("holds")
    return {str(hold["hold_id"]) for hold in holds if isinstance(hold, Mapping)} if isinstance(holds, Sequence) else set()


@contextmanager
def _replacing(ws: Workspace, ledger: Ledger, holds: Sequence[Hold]) -> Iterator[None]:
    """Put `holds` in place of the list, with what the ledger is told within as one transaction."""
    content: Json = [asdict(hold) | {"until": hold.until.isoformat()} for hold in holds]
    write_atomically(_upcoming(ws), canonical_json(content), mode=0o600)
    with ledger.together():
        yield
    _upcoming(ws).replace(_path(ws))


def _load(ws: Workspace, ledger: Ledger) -> list[Hold]:
    """The list that the ledger tells of, after a change that was cut short has been finished or dropped."""
    path, upcoming, told = _path(ws), _upcoming(ws), _told(ledger)
    if upcoming.is_file():
        if _is_told(upcoming, told):
            upcoming.replace(path)
        elif _is_told(path, told):
            upcoming.unlink()
    holds = _read(path)
    if _commitments(holds) != told:
        raise StateError(f"{path}: the holds aren't those that the ledger tells of; restore it from a backup")
    return holds


def _told(ledger: Ledger) -> dict[str, str]:
    """The commitments of the holds that were added and haven't ended."""
    ended = {event.body["hold_id"] for kind in ("hold_released", "hold_expired") for event in ledger.events(kind=kind)}
    added = {str(event.body["hold_id"]): str(event.body["commitment"]) for event in ledger.events(kind="hold_added")}
    return {hold_id: commitment for hold_id, commitment in added.items() if hold_id not in ended}


def _commitments(holds: Sequence[Hold]) -> dict[str, str]:
    return {hold.hold_id: hold.commitment for hold in holds}


def _is_told(path: Path, told: Mapping[str, str]) -> bool:
    try:
        return _commitments(_read(path)) == told
    except StateError:
        return False


def _read(path: Path) -> list[Hold]:
    try:
        return TypeAdapter(list[Hold]).validate_python(json.loads(path.read_bytes())) if path.is_file() else []
    except (ValueError, ValidationError) as error:
        raise StateError(f"{path}: the list of holds is damaged; restore it from a backup") from error


def _path(ws: Workspace) -> Path:
    return ws.ledger / "holds.json"


def _upcoming(ws: Workspace) -> Path:
    return ws.ledger / "holds.json.next"
