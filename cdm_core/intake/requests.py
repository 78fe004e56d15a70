"""Deletion requests: what an owner may ask for, and the two forms in which it arrives.

Our own form (schema `lethe/deletion-request/v1`) is YAML or JSON and holds one request; the bulk form is a CSV whose rows with one
`request_id` are one request. One signature covers a file, so a CSV speaks for one issuer. Signatures are checked over the bytes, before
anything here runs, and are no concern of this module.

A message names the file and the field, never the value: values name persons, and messages reach logs and records. For the same reason a
request's `repr` shows only its id and its regulation.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath, PureWindowsPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints

from cdm_core.digests import Digest, Json
from cdm_core.documents import decode_text, load_json, load_yaml
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.fields import Door, RequestId, Text, Time, check_text, validate

SCHEMA = "lethe/deletion-request/v1"
MAX_REQUEST_BYTES = 1_000_000

Regulation = Literal["gdpr", "ccpa", "contract", "voluntary"]
Syntax = Literal["csv", "json", "yaml"]
SYNTAXES: tuple[Syntax, ...] = get_args(Syntax)

_CSV_COLUMNS = ("request_id", "issuer", "regulation", "submitted_at", "owner_id", "sample_id")


IdentifierFormat = Literal["raw", "sha1", "md5", "sha256", "drop"]
"""As it is, or its hash; `drop` is the base64 of a SHA-256."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Identifier:
    """How a sender names an owner: `type` is email, phone, controller_customer_id …; `label` is the sender's number for this line."""

    type: str
    format: IdentifierFormat
    value: str = field(repr=False)
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRequest:
    """What is to be forgotten: the union of the owners' samples, the samples, and the images with the files' content.

    `image_files` are in the order of the file, since messages name a picture by its place there and not by its name. `identifiers` name
    owners in a sender's words; the workspace's identity table says who they are. `callbacks` are addresses that the sender wants to be
    told at, as it wrote them.
    """

    request_id: str
    issuer: str = field(repr=False)
    regulation: Regulation
    submitted_at: datetime
    owner_ids: tuple[str, ...] = field(repr=False)
    sample_ids: tuple[Digest, ...] = field(repr=False)
    image_files: tuple[str, ...] = field(repr=False)
    captions_like: str | None = field(repr=False)
    reason: str | None = field(repr=False)
    identifiers: tuple[Identifier, ...] = field(repr=False, default=())
    callbacks: tuple[str, ...] = field(repr=False, default=())


def check_size(num_bytes: int, source: str, limit: int = MAX_REQUEST_BYTES) -> None:
    """Refuse what is too large to be a request, from its size alone.

    Raises:
        RequestRefusedError: `too_large`.
    """
    if num_bytes > limit:
        raise RequestRefusedError(f"{source}: {num_bytes:,} bytes, more than the {limit:,} of a request", reason="too_large")


def parse_request(content: bytes, file_name: str, syntax: Syntax | None = None) -> list[DeletionRequest]:
    """The requests in a file: one, or several if it is a CSV, in order of first appearance.

    `syntax` says how it's written; without it `choose_syntax` does.

    Raises:
        RequestRefusedError: with the reason `too_large`, `not_text`, `malformed`, `bad_field`, `path_escape`, `empty_subject`,
            `unsupported`, `mixed_issuers` or `conflicting_rows`.
    """
    check_size(len(content), file_name)
    try:
        text = decode_text(content)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{file_name}: {error}", reason="not_text") from error
    syntax = syntax or choose_syntax(content, file_name)
    if syntax == "csv":
        return _parse_csv(text, file_name)
    try:
        document = load_json(text) if syntax == "json" else load_yaml(text)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{file_name}: {error}", reason="malformed") from error
    return [_build_request(document, file_name)]


def choose_syntax(content: bytes, file_name: str = "") -> Syntax:
    """How a file of our own form is written: by its suffix, and where that says nothing, by its first line.

    Bytes that are kept have no file name, and the id of their request is none: it may end in anything.
    """
    match PurePath(file_name).suffix.lower():
        case ".csv":
            return "csv"
        case ".json":
            return "json"
        case ".yaml" | ".yml":
            return "yaml"
    start = content.decode(errors="replace").removeprefix("\ufeff").lstrip()
    if start.startswith("{"):
        return "yaml" if re.match(r"\{\s*[^\s\"}]", start) else "json"  # YAML's braces need no quotes
    header = start.partition("\n")[0]
    return "csv" if "," in header and not re.search("[#:]", header) else "yaml"


def normalise_sample_id(value: str) -> Digest:
    """A sample id in lower case and without its prefix.

    Raises:
        ValueError: not a SHA-256.
    """
    sample_id = value.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", sample_id):
        raise ValueError("must be a SHA-256 of 64 hexadecimal digits")
    return Digest(sample_id)


_Issuer = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(check_text)]


class _Subject(Door):
    owner_ids: list[Text] = Field(default=[])
    sample_ids: list[Annotated[str, AfterValidator(normalise_sample_id)]] = Field(default=[])
    image_files: list[Text] = Field(default=[])
    captions_like: object = None


class _Document(Door):
    schema_: Literal["lethe/deletion-request/v1"] = Field(alias="schema")
    request_id: RequestId
    issuer: _Issuer
    regulation: Regulation
    submitted_at: Time
    subject: _Subject
    reason: Annotated[str, StringConstraints(max_length=10_000)] | None = None


def _build_request(document: Json, source: str) -> DeletionRequest:
    parsed = validate(_Document, document, source)
    subject = parsed.subject
    if subject.captions_like is not None:
        raise RequestRefusedError(
            f"{source}: subject.captions_like: not supported yet: name owner_ids, sample_ids or image_files", reason="unsupported"
        )
    if not (subject.owner_ids or subject.sample_ids or subject.image_files):
        raise RequestRefusedError(f"{source}: subject: names nothing to forget", reason="empty_subject")
    for index, path in enumerate(subject.image_files):
        _check_relative(path, f"{source}: subject.image_files.{index}")
    return DeletionRequest(
        request_id=parsed.request_id,
        issuer=parsed.issuer,
        regulation=parsed.regulation,
        submitted_at=parsed.submitted_at,
        owner_ids=_union(subject.owner_ids),
        sample_ids=tuple(Digest(sample_id) for sample_id in _union(subject.sample_ids)),
        image_files=tuple(subject.image_files),
        captions_like=None,
        reason=parsed.reason,
    )


def _check_relative(path: str, where: str) -> None:
    # Windows rules split on both slashes and know drives: what passes them is relative on POSIX too.
    parsed = PureWindowsPath(path)
    if parsed.drive or parsed.root or ".." in parsed.parts or not parsed.parts:
        raise RequestRefusedError(f"{where}: must be a relative path of a file, without '..'", reason="path_escape")


def _union(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _parse_csv(text: str, file_name: str) -> list[DeletionRequest]:
    rows_by_id: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
    for line, row in _read_rows(text, file_name):
        rows_by_id.setdefault(row["request_id"], []).append((line, row))
    requests = [_build_request(_merge_rows(rows, file_name), f"{file_name}: line {rows[0][0]}") for rows in rows_by_id.values()]
    if not requests:
        raise RequestRefusedError(f"{file_name}: holds no requests", reason="empty_subject")
    if len({request.issuer for request in requests}) > 1:
        raise RequestRefusedError(f"{file_name}: issuer: a file is signed by one issuer, this one states several", reason="mixed_issuers")
    return requests


def _read_rows(text: str, file_name: str) -> list[tuple[int, Mapping[str, str]]]:
    """(line, columns) of every row that isn't blank; a cell's surrounding spaces are the spreadsheet's, not the sender's."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, Mapping[str, str]]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) != sorted(_CSV_COLUMNS):
            raise RequestRefusedError(f"{file_name}: line 1: the columns must be {','.join(_CSV_COLUMNS)}", reason="malformed")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise RequestRefusedError(
                    f"{file_name}: line {reader.line_num}: {len(cells)} columns, the header has {len(header)}", reason="malformed"
                )
            if cells:
                rows.append((reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
    except csv.Error as error:
        raise RequestRefusedError(f"{file_name}: line {reader.line_num}: not CSV: {error}", reason="malformed") from error
    return rows


def _merge_rows(rows: list[tuple[int, Mapping[str, str]]], file_name: str) -> Json:
    """One document of our own form from the rows of one request."""
    first = rows[0][1]
    for line, row in rows:
        for column in ("issuer", "regulation", "submitted_at"):
            if row[column] != first[column]:
                raise RequestRefusedError(
                    f"{file_name}: line {line}: {column}: differs from another row of the same request_id", reason="conflicting_rows"
                )
        if not (row["owner_id"] or row["sample_id"]):
            raise RequestRefusedError(f"{file_name}: line {line}: needs an owner_id or a sample_id", reason="empty_subject")
    return {
        "schema": SCHEMA,
        "request_id": first["request_id"],
        "issuer": first["issuer"],
        "regulation": first["regulation"],
        "submitted_at": first["submitted_at"],
        "subject": {
            "owner_ids": [row["owner_id"] for _, row in rows if row["owner_id"]],
            "sample_ids": [row["sample_id"] for _, row in rows if row["sample_id"]],
        },
    }
