"""The inbox of a workspace: what is handed over to be taken in, and what became of it.

    requests/    request files (.yaml, .yml, .json, .csv, .txt, .drp, .jwt, .zip), each with its signature in `<file>.sig` where its form
                 has none inside, and the pictures that they name
    arrivals/    folders of pictures, each with `owner.json`: {"owner_id": "…", "tier": null, name or number}, and captions.csv if wanted
    done/        one `<item>.json` for each item that was taken in, with the answers
    refused/     one `<item>.json` for each item that was refused, with the reason

Put copies here. An item leaves the inbox when it has been dealt with, since it names its owner: a request whatever its outcome, an arrival
once its samples are stored. A refused arrival stays for mending, without its `owner.json`; but pictures that were erased on request may not
lie around again, and go.

While a request is carried out, another may be put under its name, or one that names the same picture. So a file goes only if it's still as
it was taken in, and as a picture none that is of a request or that another request here names: a file too many is better than one lost.

Who writes and who reads must agree on when an item is complete. A request is, once its signature is there, so write that last; without one
it is taken for unsigned after a while. An arrival is, once `owner.json` is there, so write that last. Either must have been left alone for
a moment. Names that begin with a dot are passed over, and so are links.

An item is named by a digest of its content, so that orchestrator, events and logs can name it and hold nothing personal.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from cdm_core.digests import Digest, json_digest, sha256_digest
from cdm_core.documents import decode_text, describe_problem, load_json
from cdm_core.errors import InvalidInputError
from cdm_core.intake.requests import MAX_REQUEST_BYTES, DeletionRequest
from cdm_core.sharding.tiers import is_tier_name
from tasks.files import erase_folder, write_atomically
from tasks.requests.request_images import images_folder, with_kept_images
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
_PICTURED_SUFFIXES = {".yaml", ".yml", ".json"}
_MAX_OWNER_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxItem:
    """A complete item; `name` is its kind and 16 digits of its content's digest, `path` a request file or an arrival's folder.

    `files` are a request's own, with their digests: its file, its signature and its headers.
    """

    name: str
    kind: Kind
    path: Path
    files: tuple[tuple[Path, Digest], ...] = field(default=(), compare=False)


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


def find_pictures(ws: Workspace, item: InboxItem, requests: Iterable[DeletionRequest]) -> dict[Path, Digest]:
    """The pictures beside a request file that its requests name, each with its digest as it was taken in, or as it is if that is over."""
    folder = item.path.parent.resolve()
    found = {}
    for request in requests:
        for name, kept_name in zip(request.image_files, with_kept_images(ws, request).image_files, strict=True):
            picture, kept = (folder / name).resolve(), images_folder(ws, request.request_id) / kept_name
            if picture.is_relative_to(folder) and picture.is_file():
                found[picture] = _digest(kept if kept.is_file() else picture)
    return found


def remove_request(item: InboxItem, pictures: Mapping[Path, Digest] | None = None) -> None:
    """Delete a request file, its signature, its headers and its pictures, each if it's still the one that was taken in."""
    folder = item.path.parent.resolve()
    for picture, digest in (pictures or {}).items():
        is_free = not _is_of_request(picture) and not _is_named_by_another(item, picture)
        if is_free and _remove_unchanged(picture, digest) and picture.parent != folder:
            with suppress(OSError):  # there is more in it
                picture.parent.rmdir()
    for path, digest in item.files:
        _remove_unchanged(path, digest)


def remove_arrival(ws: Workspace, item: InboxItem) -> None:
    """Delete an arrival's folder, unless it was changed meanwhile: then it's another arrival, whose known pictures count once.

    A crash on the way leaves no arrival of fewer pictures: it's moved out first.
    """
    erase_folder(_leaving(ws))
    if _name_arrival(item.path) != item.name:
        return
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


def _headers(path: Path) -> Path:
    return path.with_name(path.name + _HEADERS_SUFFIX)


def _remove_unchanged(path: Path, digest: Digest) -> bool:
    try:
        if _digest(path) != digest:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _is_of_request(path: Path) -> bool:
    """Whether a file is a request, a signature or headers by its name, or is being written."""
    return path.name.startswith(".") or path.suffix.lower() in {*_SUFFIXES, ".sig"}


def _is_named_by_another(item: InboxItem, picture: Path) -> bool:
    """Whether the picture's file name stands in another request file, complete or not; only those of our own form name pictures."""
    spellings = (os.fsencode(picture.name), json.dumps(picture.name)[1:-1].encode())
    contents = (_read_other(path, item) for path in item.path.parent.iterdir() if path.suffix.lower() in _PICTURED_SUFFIXES)
    try:
        return any(spelling in content for content in contents for spelling in spellings)
    except OSError:  # what can't be read may name it
        return True


def _read_other(path: Path, item: InboxItem) -> bytes:
    """What a request file says; nothing if it's the item, under whatever name, or has gone."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_REQUEST_BYTES)
    except (FileNotFoundError, IsADirectoryError):
        return b""
    return b"" if sha256_digest(content) in dict(item.files).values() else content


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
    if not is_settled:
        return None
    files = [(each, _digest(each)) for each in (path, signature, _headers(path)) if each.is_file()]
    return InboxItem(name=f"request-{files[0][1][:16]}", kind="request", path=path, files=tuple(files))


def _read_arrival(path: Path, now: datetime) -> InboxItem | None:
    if not (path / OWNER_FILE).is_file():
        return None
    files = sorted(file for file in path.iterdir() if file.is_file())
    if not _left_alone([path, *files], now, SETTLED_SECONDS):
        return None
    return InboxItem(name=_name_arrival(path), kind="arrival", path=path)


def _name_arrival(path: Path) -> str:
    files = sorted(file for file in path.iterdir() if file.is_file())
    digest = json_digest([[os.fsencode(file.name).hex(), _digest(file)] for file in files])
    return f"arrival-{digest[:16]}"


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
