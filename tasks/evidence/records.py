"""The audit-record files of a workspace: written once, signed, each naming the digest of the one before.

A record lies at `.lethe/ledger/records/NNNNNN-<kind>.json`. Its predicate says, beside what the flow puts there:

- `previous_record`: the digest of the record before it, null in the first;
- `step_key`: which step wrote it, so that a step run again after a crash finds its record and writes no second one;
- `ledger`: size and root of the ledger's tree when it was signed;
- `artifacts`: `[{"path", "digest"}]`, files that it speaks of, relative to the workspace.

Each record's digest goes into the ledger as an event, and each record names the tree before it: the chain shows a gap, the ledger shows
that the newest records were cut off, and the records show that the ledger was put back to an earlier state.

`verify_record` needs no network, no ledger and no model library. With no keys given it trusts those it finds in the record's own workspace,
which shows that nothing changed since, not who signed: a stranger passes a key that came another way.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.evidence.audit_record import check_statement, complete_predicate
from cdm_core.evidence.envelopes import (
    UNLEARNING_PREDICATE,
    VerifiedStatement,
    build_statement,
    sign_envelope,
    verify_chain,
    verify_envelope,
)
from tasks.clock import utc_now
from tasks.files import write_atomically
from tasks.keys import load_record_keys, workspace_signer
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.workspace import Workspace

RECORD_EVENT = "record"

_NAME = re.compile(r"([0-9]{6})-[a-z][a-z0-9_-]*\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRecord:
    """A record that holds, and how far it could be checked.

    Of the artifacts it names, `num_matching` files lie where it says with the digest it says, `num_superseded` were written anew by a
    later record that holds too, and `num_absent` are gone (erased, or not handed over). `num_chained` counts the consecutive records up to
    and with it that were checked: all of them in its workspace, 1 where it lies alone.
    """

    valid: Literal[True] = True
    keyid: str
    digest: Digest
    subject: Sequence[Json]
    statement: Mapping[str, Json]
    num_chained: int
    num_matching: int
    num_superseded: int
    num_absent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRecord:
    """A record whose signature and place in its chain hold; `later` are the records beside it that follow, by name, as far as they hold."""

    path: Path
    digest: Digest
    statement: VerifiedStatement
    num_chained: int
    later: Mapping[str, VerifiedStatement]


def append_record(ws: Workspace, kind: str, subjects: Mapping[str, Digest], predicate: Mapping[str, Json]) -> Path:
    """One record; see `append_records`."""
    return append_records(ws, kind, subjects, [predicate])[0]


def append_records(ws: Workspace, kind: str, subjects: Mapping[str, Digest], predicates: Sequence[Mapping[str, Json]]) -> list[Path]:
    """Sign and store records, or find those that their `step_key`s wrote before; a broken chain is not continued.

    The chain and the ledger, which grow with every record ever written, are checked once for all.

    Raises:
        ValueError: `kind` is no file name, a predicate lacks `step_key` or brings its own `previous_record`, or doesn't fit the schema.
        VerificationError: the records that are there don't hold.
    """
    if any(not isinstance(predicate.get("step_key"), str) or "previous_record" in predicate for predicate in predicates):
        raise ValueError("a record's predicate brings a step_key and leaves previous_record to the chain")
    if not _NAME.fullmatch(f"000000-{kind}.json"):
        raise ValueError(f"{kind!r} is not a kind of record")
    ws.records.mkdir(parents=True, exist_ok=True)
    # One writer at a time, or two records could follow the same one.
    with exclusive_lock(ws.records / ".lock"):
        records = load_records(ws)
        statements = _verify_own_chain(ws, records)
        ledger, signer = Ledger(ws), workspace_signer(ws)
        _check_trees(ws, statements, ledger.verified_roots())
        _log_records(ws, ledger)
        paths = list_records(ws.records)
        written = {str(statement.predicate.get("step_key")): path for path, statement in zip(paths, statements, strict=True)}
        previous, number = (sha256_digest(records[-1]) if records else None), len(records)
        for predicate in predicates:
            if predicate["step_key"] in written:
                continue
            content = {"ledger": ledger.describe(), **predicate, "previous_record": previous}
            payload = build_statement(subjects, UNLEARNING_PREDICATE, complete_predicate(content))
            check_statement(payload)
            number += 1
            path, envelope = ws.records / f"{number:06d}-{kind}.json", sign_envelope(payload, signer)
            write_atomically(path, envelope)
            _log_record(ledger, path.name, envelope)
            written[str(predicate["step_key"])], previous = path, sha256_digest(envelope)
        if number > len(records):
            ledger.sign_checkpoint()
    return [written[str(predicate["step_key"])] for predicate in predicates]


def check_logged(ws: Workspace, ledger: Ledger) -> int:
    """Compare the record files with what the ledger says of them; returns how many it has, which a crash may leave one behind the files.

    Raises:
        VerificationError: a record that was logged is gone or is another one.
    """
    events, paths = ledger.events(kind=RECORD_EVENT), list_records(ws.records)
    for position, event in enumerate(events):
        name = event.body.get("record")
        if position >= len(paths) or paths[position].name != name:
            raise VerificationError(f"{ws.records / str(name)}: was logged and is gone; records were removed or cut off at the end")
        if sha256_digest(paths[position].read_bytes()) != event.body.get("digest"):
            raise VerificationError(f"{paths[position]}: is not the record that was logged")
    return len(events)


def check_tree(predicate: Mapping[str, Json], roots: Sequence[bytes]) -> None:
    """Compare the tree that a verified record names with the ledger's, whose root at every size from 0 on `roots` holds.

    Raises:
        VerificationError: the record was signed over a tree that the ledger's doesn't continue.
    """
    match predicate.get("ledger"):
        case {"size": int(size), "root": str(root)} if not 0 <= size < len(roots) or roots[size].hex() != root:
            raise VerificationError(f"was signed when the ledger had {size} events, which aren't its first {size} now: it was put back")
        case _:  # records of the first release name none
            pass


def read_predicate(ws: Workspace, name: str) -> Mapping[str, Json]:
    """What a record of the workspace says, its signature checked.

    Raises:
        InvalidInputError: there is no such record.
        VerificationError: the workspace didn't sign it.
    """
    return verify_envelope(_read_file(ws.records / name), load_record_keys(ws.keys)).predicate


def verify_all_records(ws: Workspace, roots: Sequence[bytes], keys: Sequence[Key] | None = None) -> dict[Digest, VerifiedStatement]:
    """Every record's statement by the digest of its bytes, after signatures, chain and the trees that they name were checked.

    Args:
        ws: whose records.
        roots: of the ledger's tree at every size from 0 on.
        keys: whose signatures to trust; None means the workspace's own.

    Raises:
        VerificationError: the records don't hold.
    """
    records = load_records(ws)
    statements = _verify_own_chain(ws, records, keys)
    _check_trees(ws, statements, roots)
    return {sha256_digest(content): statement for content, statement in zip(records, statements, strict=True)}


def load_records(ws: Workspace) -> list[bytes]:
    """The bytes of all records, oldest first."""
    return [path.read_bytes() for path in list_records(ws.records)]


def verify_record(path: Path, keys: Sequence[Key] | None = None) -> VerifiedRecord:
    """Check a record file: its signature, the chain up to it where its neighbours lie beside it, the artifacts it names.

    Args:
        path: The record; the workspace is found above it.
        keys: Whose signature to trust; None means the keys of that workspace.

    Raises:
        InvalidInputError: there is no such file, or no key to check it with.
        VerificationError: something doesn't hold.
    """
    record = read_record(path, keys)
    statement = record.statement
    try:
        artifacts = _check_artifacts(_read_artifacts(statement), list(record.later.values()), find_root(record.path))
    except VerificationError as error:
        raise VerificationError(f"{record.path}: {error}") from error
    subject = statement.statement["subject"]
    assert isinstance(subject, Sequence)  # verified with the statement
    return VerifiedRecord(
        keyid=statement.keyid,
        digest=record.digest,
        subject=subject,
        statement=statement.statement,
        num_chained=record.num_chained,
        num_matching=artifacts.count("matching"),
        num_superseded=artifacts.count("superseded"),
        num_absent=artifacts.count("absent"),
    )


def read_record(path: Path, keys: Sequence[Key] | None = None) -> SignedRecord:
    """A record file, its signature and chain checked as in `verify_record`, but not the files that it names.

    Raises:
        InvalidInputError: there is no such file, or no key to check it with.
        VerificationError: something doesn't hold.
    """
    path = path.resolve()
    content = _read_file(path)
    root = find_root(path)
    if keys is None:
        keys = load_record_keys(root / ".lethe" / "keys") if root else []
    if not keys:
        raise InvalidInputError(f"{path}: no public key to check it with; it lies in no workspace, and none was given")
    try:
        statement = verify_envelope(content, keys)
        if statement.statement["predicateType"] != UNLEARNING_PREDICATE:
            raise VerificationError("signed, but not as an audit record")
        num_chained, later = _verify_neighbours(path, keys, root)
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from error
    names = [other.name for other in list_records(path.parent)]
    following = names[names.index(path.name) + 1 :] if path.name in names else []
    return SignedRecord(
        path=path,
        digest=sha256_digest(content),
        statement=statement,
        num_chained=num_chained,
        later=dict(zip(following, later, strict=False)),  # those after the first that doesn't hold are not in `later`
    )


def _log_records(ws: Workspace, ledger: Ledger) -> None:
    """Append an event for each record that has none: a new one, or those of a crash or of a ledger that logged none yet."""
    for path in list_records(ws.records)[check_logged(ws, ledger) :]:
        _log_record(ledger, path.name, path.read_bytes())


def _log_record(ledger: Ledger, name: str, content: bytes) -> None:
    ledger.append(RECORD_EVENT, None, {"record": name, "digest": sha256_digest(content)}, utc_now())


def _verify_own_chain(ws: Workspace, records: Sequence[bytes], keys: Sequence[Key] | None = None) -> list[VerifiedStatement]:
    try:
        return verify_chain(records, load_record_keys(ws.keys) if keys is None else keys)
    except VerificationError as error:
        raise VerificationError(f"{ws.records}: {error}") from error


def _check_trees(ws: Workspace, statements: Sequence[VerifiedStatement], roots: Sequence[bytes]) -> None:
    for path, statement in zip(list_records(ws.records), statements, strict=True):
        try:
            check_tree(statement.predicate, roots)
        except VerificationError as error:
            raise VerificationError(f"{path}: {error}") from error


def _verify_neighbours(path: Path, keys: Sequence[Key], root: Path | None) -> tuple[int, list[VerifiedStatement]]:
    """How many records, this one included, lead up to it unbroken, which must hold; and those after it, as far as they hold."""
    beside = list_records(path.parent)
    if path not in beside:
        return 1, []  # under another name: a copy, which stands for itself
    end = beside.index(path) + 1
    start = end - 1
    while start > 0 and _number(beside[start - 1]) == _number(beside[start]) - 1:
        start -= 1
    is_whole = _number(beside[start]) == 1
    if not is_whole and root is not None and path.parent == Workspace(root).records:
        raise VerificationError(f"the record before {beside[start].name} is missing, or two have one number")
    records = [record.read_bytes() for record in beside]
    # Elsewhere than at home a part of the chain may have been handed over: it is checked from where it begins.
    previous = None if is_whole else _read_previous(verify_envelope(records[start], keys))
    verify_chain(records[start:end], keys, previous)
    return end - start, _verify_later(records[end - 1 :], keys)


def _verify_later(records: Sequence[bytes], keys: Sequence[Key]) -> list[VerifiedStatement]:
    """The records that follow the first, up to one that doesn't hold: its own matter, and it proves nothing about the first."""
    later: list[VerifiedStatement] = []
    for before, content in pairwise(records):
        try:
            later += verify_chain([content], keys, sha256_digest(before))
        except VerificationError:
            break
    return later


def _read_previous(statement: VerifiedStatement) -> Digest | None:
    previous = statement.predicate.get("previous_record")
    return Digest(previous) if isinstance(previous, str) else None


def _read_artifacts(statement: VerifiedStatement) -> list[tuple[PurePosixPath, str]]:
    """The artifacts a record names: path relative to the workspace, digest."""
    artifacts: list[tuple[PurePosixPath, str]] = []
    entries = statement.predicate.get("artifacts", [])
    for entry in entries if isinstance(entries, Sequence) else [None]:
        match entry:
            case {"path": str(name), "digest": str(digest)}:
                path = PurePosixPath(name)
            case _:
                raise VerificationError("artifacts: must be a list of paths and digests")
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise VerificationError(f"artifact {name!r}: not a path inside the workspace")
        artifacts.append((path, digest))
    return artifacts


def _check_artifacts(
    artifacts: Sequence[tuple[PurePosixPath, str]], later: Sequence[VerifiedStatement], root: Path | None
) -> list[Literal["matching", "superseded", "absent"]]:
    newest_digest = {path: digest for statement in later for path, digest in _read_artifacts(statement)}
    verdicts: list[Literal["matching", "superseded", "absent"]] = []
    for path, digest in artifacts:
        if newest_digest.get(path, digest) != digest:
            verdicts.append("superseded")
        elif root is None or not (root / path).exists():
            verdicts.append("absent")
        elif _compute_file_digest(root / path) != digest:
            raise VerificationError(f"artifact {path}: is not the file that the record names")
        else:
            verdicts.append("matching")
    return verdicts


def _compute_file_digest(path: Path) -> Digest | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return Digest(file_digest(file, "sha256").hexdigest())


def list_records(folder: Path) -> list[Path]:
    """Record files in the order of their numbers."""
    return sorted(path for path in folder.glob("*.json") if _NAME.fullmatch(path.name) and path.is_file())


def _number(path: Path) -> int:
    return int(path.name[:6])


def find_root(path: Path) -> Path | None:
    """The workspace that a record lies in."""
    return next((parent for parent in path.parents if (parent / ".lethe" / "keys").is_dir()), None)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
