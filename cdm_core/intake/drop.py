"""California's DROP: a ZIP of CSVs `ID,Hash`, signed as a file by the operator who downloaded it, and the answer CSV `ID,Status`.

The archive is never unpacked to a disk. Its members are listed, their number, stated sizes and ratio bounded, and each is read up to its
stated size and no further. A name that leads anywhere, a folder, an encrypted member or a link refuses the whole file.

The list type stands in the member's name (`…_Email.csv`, `…_Phone_….csv`); the hash alone says nothing of it. Removed identifiers come in
a CSV of their own, whose rows take their ids out of the request.

One file is one request, since one download is answered by one upload. It has no id; its digest gives one. Status 2 says that all samples of
a matched owner are held; where only some are, the rest was deleted, which is what status 3 means ("non-exempt personal information was
deleted"). Status 4 is for identifiers that several owners share: nothing is deleted by them. Status 5 is also the answer to a list type
that the identity table doesn't know. When a hold ends its samples are deleted, and the answer changes from 2 to 3: DROP takes that as an
amending upload.

Reference: https://privacy.ca.gov/drop-for-data-brokers/technical-specifications/
"""

import csv
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime

from cdm_core.digests import sha256_digest
from cdm_core.documents import decode_text
from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.case_status import CaseStatus, Outcome
from cdm_core.intake.encodings import decode_base64
from cdm_core.intake.requests import DeletionRequest, Identifier

MAX_ARCHIVE_BYTES = 20_000_000
MAX_MEMBERS = 16
MAX_UNPACKED_BYTES = 60_000_000
MAX_RATIO = 50
"""Base64 of hashes shrinks by a quarter; ids by a little more."""

STATUS_OF: Mapping[Outcome, int] = {"exempted": 2, "partly_held": 3, "matched": 3, "shared": 4, "not_found": 5}
_DELETED = ("matched", "partly_held")

_LISTS = {
    "email": "email",
    "phone": "phone",
    "maid": "mobile_advertising_id",
    "ctvid": "connected_tv_id",
    "ndz": "name_birth_zip",
    "namevin": "name_vin",
}
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9 ._-]{0,120}\.csv\Z", re.IGNORECASE)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ID = re.compile(r"\A[A-Za-z0-9._:-]{1,128}\Z")


def parse_drop(content: bytes, source: str, *, issuer: str, received_at: datetime | None) -> tuple[list[DeletionRequest], list[str]]:
    """The one request in an archive; DROP states no time of submission, so that of receipt stands for it.

    Raises:
        RequestRefusedError: `malformed`, `archive_bomb`, `path_escape`, `not_text`, `bad_field`, `repeated_id` or `empty_subject`.
    """
    found: dict[str, Identifier] = {}
    removed: set[str] = set()
    for name, text in _read_members(content, source):
        kind = _list_type(name, source)
        for work_item, value in _read_rows(text, f"{source}: {name}"):
            if kind is None:
                removed.add(work_item)
            elif work_item in found:
                raise RequestRefusedError(f"{source}: {name}: an ID is given twice", reason="repeated_id")
            else:
                found[work_item] = Identifier(type=kind, format="drop", value=value, label=work_item)
    identifiers = tuple(sorted(found[work_item] for work_item in found.keys() - removed))
    if not identifiers:
        raise RequestRefusedError(f"{source}: names nobody", reason="empty_subject")
    request = DeletionRequest(
        request_id=f"drop-{sha256_digest(content)[:32]}",
        issuer=issuer,
        regulation="ccpa",
        submitted_at=received_at or datetime.max,
        owner_ids=(),
        sample_ids=(),
        image_files=(),
        captions_like=None,
        reason=None,
        identifiers=identifiers,
    )
    return [request], []


def answer_drop(case: CaseStatus) -> str:
    """The upload: one line for each work item, once the request is closed, or waits for a hold to end.

    Raises:
        InvalidInputError: it is still open, so that no status can be given.
    """
    if case.is_open:
        raise InvalidInputError(f"{case.ledger_id}: still {case.status}; DROP knows no status before the end")
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("ID", "Status"))
    for work_item, outcome in sorted(case.outcomes.items()):
        if outcome in _DELETED and not (case.is_closed or case.progress == "done"):
            raise InvalidInputError(
                f"{case.ledger_id}: ended as {case.status}; what was found was not deleted, and DROP has no status for it"
            )
        writer.writerow((work_item, STATUS_OF[outcome]))
    return lines.getvalue()


def _list_type(name: str, source: str) -> str | None:
    """What a member's hashes are of; None says that its rows are removed."""
    words = {word.lower() for word in re.split(r"[^A-Za-z]+", name)}
    if words & {"removed", "removal", "deleted"}:
        return None
    kinds = [kind for word, kind in _LISTS.items() if word in words]
    if len(kinds) != 1:
        raise RequestRefusedError(f"{source}: {name}: the name tells no list type", reason="bad_field")
    return kinds[0]


def _read_members(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(members, source)
            for member in members:
                yield member.filename, _read_member(content, member, source)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        ValueError,
        IndexError,
    ) as error:
        raise RequestRefusedError(f"{source}: not a readable ZIP", reason="malformed") from error


def _check_members(members: list[zipfile.ZipInfo], source: str) -> None:
    if not members or len(members) > MAX_MEMBERS:
        raise RequestRefusedError(f"{source}: {len(members):,} files, not 1 to {MAX_MEMBERS}", reason="archive_bomb")
    if len({member.filename.lower() for member in members}) < len(members):
        raise RequestRefusedError(f"{source}: holds a file twice", reason="malformed")
    for member in members:
        mode = member.external_attr >> 16
        if not _NAME.match(member.filename) or ".." in member.filename or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
            raise RequestRefusedError(f"{source}: holds something else than plain .csv files", reason="path_escape")
        if member.flag_bits & 1:
            raise RequestRefusedError(f"{source}: is encrypted", reason="malformed")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RequestRefusedError(f"{source}: is compressed by another method than deflate", reason="malformed")
        if member.file_size > MAX_RATIO * max(member.compress_size, 100):
            raise RequestRefusedError(f"{source}: unpacks to more than {MAX_RATIO} times its size", reason="archive_bomb")
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise RequestRefusedError(f"{source}: unpacks to more than {MAX_UNPACKED_BYTES:,} bytes", reason="archive_bomb")


def _read_member(archive_bytes: bytes, member: zipfile.ZipInfo, source: str) -> str:
    content = _inflate(archive_bytes, member)
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise RequestRefusedError(f"{source}: {member.filename}: isn't what the archive states of it", reason="malformed")
    try:
        return decode_text(content)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{source}: {member.filename}: {error}", reason="not_text") from error


def _inflate(archive_bytes: bytes, member: zipfile.ZipInfo) -> bytes:
    """A member's content, of which at most a byte more than its stated size, which was bounded, is ever made.

    `ZipFile.read` inflates first and cuts afterwards.
    """
    header = archive_bytes[member.header_offset : member.header_offset + _LOCAL_HEADER.size]
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = member.header_offset + _LOCAL_HEADER.size
    if magic != b"PK\x03\x04" or archive_bytes[start : start + name_length] != member.orig_filename.encode():
        raise zipfile.BadZipFile("a local header differs from the directory")
    start += name_length + extra_length
    stored = archive_bytes[start : start + member.compress_size]
    if member.compress_type == zipfile.ZIP_STORED:
        return stored
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, member.file_size + 1)


def _read_rows(text: str, source: str) -> Iterator[tuple[str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        if next(reader, []) != ["ID", "Hash"]:
            raise RequestRefusedError(f"{source}: line 1: the columns must be ID,Hash", reason="malformed")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != 2 or not _ID.match(cells[0]) or not _is_hash(cells[1]):
                raise RequestRefusedError(f"{source}: line {reader.line_num}: not an ID and a hash", reason="bad_field")
            yield cells[0], cells[1]
    except csv.Error as error:
        raise RequestRefusedError(f"{source}: line {reader.line_num}: not CSV", reason="malformed") from error


def _is_hash(text: str) -> bool:
    try:
        return len(text) == 44 and len(decode_base64(text.encode())) == 32
    except InvalidInputError:
        return False
