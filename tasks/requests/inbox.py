"""The inbox of a workspace: what is handed over to be taken in, and what became of it.

    requests/    request files (.yaml, .yml, .json, .csv, .txt, .drp, .jwt, .zip), each with its signature in `<file>.sig` where its form
                 has none inside, and the pictures that they name
    arrivals/    folders of pictures, each with `owner.json`: {"owner_id": "…", "tier": null, name or number}, and captions.csv if wanted
    done/        one `<item>.json` for each item that was taken in, with the answers
    refused/     one `<item>.json` for each item that was refused, with the reason

Put copies here. An item leaves the inbox when it has been dealt with, since it names its owner: a request whatever its outcome, an arrival
once its samples are stored. A refused arrival stays for mending, without its `owner.json`; but pictures that were erased on request may not
lie around again, and go.

Who writes and who reads must agree on when an item is complete. A request is, once its signature is there, so write that last; without one
it is taken for unsigned after a while. An arrival is, once `owner.json` is there, so write that last. Either must have been left alone for
a moment. Names that begin with a dot are passed over, and so are links.

An item is named by a digest of its content, so that orchestrator, events and logs can name it and hold nothing personal.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from cdm_core.digests import Digest, json_digest
from cdm_core.documents import decode_text, describe_problem, load_json
from cdm_core.errors import InvalidInputError
from cdm_core.sharding.tiers import is_tier_name
from tasks.files import erase_folder, write_atomically
from tasks.workspace import Workspace

OWNER_FILE = "owner.json"
SETTLED_SECONDS = 1.0
"""How long an item must have been left alone."""
UNSIGNED_SECONDS = 10.0
"""How long a request waits for its signature."""

REQUEUED = "requeued-"
"""Begins the name of an item that lies in no folder: a request that waited for a hold, by its id."""

Kind = Literal["request", "arrival"]
Outcome = Literal["done", "refused"]

_SUFFIXES = {".yaml", ".yml", ".json", ".csv", ".txt", ".drp", ".jwt", ".zip"}
_HEADERS_SUFFIX = ".headers.json"
_MAX_OWNER_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxItem:
    """A complete item; `name` is its kind and 16 digits of its content's digest, `path` a request file or an arrival's folder."""

    name: str
    kind: Kind
    path: Path


def _check_tier(value: object) -> str | int | None:
    if value is None or (isinstance(value, str) and is_tier_name(value)):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("tier", "must be a tier's name or a stage's number")


class _OwnerFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    owner_id: Annotated[str, StringConstraints(min_length=1)]
    tier: Annotated[str | int | None, PlainValidator(_check_tier)] = None


def create_inbox(ws: Workspace) -> None:
    """Make the inbox's folders where they are missing, readable by their owner alone; finish a removal that was cut short."""
    for folder in (ws.inbox, _requests(ws), _arrivals(ws), ws.inbox / "done", ws.inbox / "refused"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    erase_folder(_leaving(ws))


def scan_inbox(ws: Workspace, now: datetime) -> list[InboxItem]:
    """The complete items. What can't be read is passed over: someone may be moving it."""
    found = [*_read_each(_requests(ws), _read_request, now), *_read_each(_arrivals(ws), _read_arrival, now)]
    return sorted(found, key=lambda item: item.name)


def find_item(ws: Workspace, name: str, now: datetime) -> InboxItem | None:
    """The complete item of that name."""
    return next((item for item in scan_inbox(ws, now) if item.name == name), None)


def read_owner(folder: Path) -> tuple[str, str | int | None]:
    """(owner id, tier) of an arrival.

    Raises:
        InvalidInputError: `owner.json` isn't what it must be.
    """
    try:
        with (folder / OWNER_FILE).open("rb") as file:
            content = file.read(_MAX_OWNER_BYTES + 1)
        if len(content) > _MAX_OWNER_BYTES:
            raise InvalidInputError(f"more than {_MAX_OWNER_BYTES:,} bytes")
        owner = _OwnerFile.model_validate(load_json(decode_text(content)))
    except InvalidInputError as error:
        raise InvalidInputError(f"{OWNER_FILE}: {error}") from error
    except ValidationError as error:
        raise InvalidInputError(f"{OWNER_FILE}: {describe_problem(error)}") from error
    return owner.owner_id, owner.tier


def record_outcome(ws: Workspace, item: InboxItem, outcome: Outcome, document: Mapping[str, object]) -> Path:
    """Write what became of an item, in place of what an earlier item of the same content was told."""
    path = ws.inbox / outcome / f"{item.name}.json"
    write_atomically(path, json.dumps({"item": item.name, **document}, indent=2).encode() + b"\n", mode=0o600)
    other: Outcome = "refused" if outcome == "done" else "done"
    (ws.inbox / other / path.name).unlink(missing_ok=True)
    return path


def retell_outcome(ws: Workspace, answer: Mapping[str, object]) -> None:
    """Put a request's new answer in place of the one that was told before its hold ended, wherever that was told."""
    for path in sorted((ws.inbox / "done").glob("request-*.json")):
        document = json.loads(path.read_bytes())
        if document.get("request_id") == answer["request_id"]:
            told: Mapping[str, object] = {"item": path.stem, **answer}
        elif any(each.get("request_id") == answer["request_id"] for each in document.get("requests", [])):
            others = [answer if each.get("request_id") == answer["request_id"] else each for each in document["requests"]]
            told = {**document, "requests": others}
        else:
            continue
        write_atomically(path, json.dumps(told, indent=2).encode() + b"\n", mode=0o600)


def remove_request(item: InboxItem, pictures: Iterable[str] = ()) -> None:
    """Delete a request file, its signature, and those pictures beside it that it names; what lies elsewhere isn't touched."""
    folder = item.path.parent.resolve()
    for name in pictures:
        picture = (folder / name).resolve()
        if picture.is_relative_to(folder) and picture.is_file():
            picture.unlink()
            with suppress(OSError):  # there is more in it
                picture.parent.rmdir()
    item.path.unlink(missing_ok=True)
    _signature(item.path).unlink(missing_ok=True)
    item.path.with_name(item.path.name + _HEADERS_SUFFIX).unlink(missing_ok=True)


def remove_arrival(ws: Workspace, item: InboxItem) -> None:
    """Delete an arrival's folder. A crash on the way leaves no arrival of fewer pictures: it's moved out first."""
    erase_folder(_leaving(ws))
    item.path.rename(_leaving(ws))
    erase_folder(_leaving(ws))


def reopen_arrival(item: InboxItem) -> None:
    """Leave the pictures to be mended: the folder is complete again when `owner.json` is."""
    (item.path / OWNER_FILE).unlink(missing_ok=True)


def _requests(ws: Workspace) -> Path:
    return ws.inbox / "requests"


def _arrivals(ws: Workspace) -> Path:
    return ws.inbox / "arrivals"


def _leaving(ws: Workspace) -> Path:
    return ws.inbox / ".leaving"


def _signature(path: Path) -> Path:
    return path.with_name(path.name + ".sig")


def _read_each(folder: Path, read: Callable[[Path, datetime], InboxItem | None], now: datetime) -> Iterator[InboxItem]:
    for path in folder.iterdir():
        with suppress(OSError):
            if not path.name.startswith(".") and not path.is_symlink() and (item := read(path, now)):
                yield item


def _read_request(path: Path, now: datetime) -> InboxItem | None:
    if path.suffix.lower() not in _SUFFIXES or path.name.endswith(_HEADERS_SUFFIX) or not path.is_file():
        return None
    signature = _signature(path)
    is_settled = _left_alone([path, signature], now, SETTLED_SECONDS) if signature.is_file() else _left_alone([path], now, UNSIGNED_SECONDS)
    return InboxItem(name=f"request-{_digest(path)[:16]}", kind="request", path=path) if is_settled else None


def _read_arrival(path: Path, now: datetime) -> InboxItem | None:
    if not (path / OWNER_FILE).is_file():
        return None
    files = sorted(file for file in path.iterdir() if file.is_file())
    if not _left_alone([path, *files], now, SETTLED_SECONDS):
        return None
    digest = json_digest([[os.fsencode(file.name).hex(), _digest(file)] for file in files])
    return InboxItem(name=f"arrival-{digest[:16]}", kind="arrival", path=path)


def _left_alone(paths: Iterable[Path], now: datetime, seconds: float) -> bool:
    """By the time of the inode's change, which copying and moving don't carry over as they do the time of the content's."""
    return now.timestamp() - max(path.stat().st_ctime for path in paths) >= seconds


def _digest(path: Path) -> Digest:
    status = path.stat()
    return _digest_unchanged(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=100_000)
def _digest_unchanged(path: Path, stamp: tuple[int, ...]) -> Digest:
    """The inbox is looked at every second; a file is read again only if its stamp is another."""
    with path.open("rb") as file:
        return Digest(file_digest(file, "sha256").hexdigest())
