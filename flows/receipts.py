"""`lethe receipt`, `keys export`, and `verify` of records, receipts and the ledger; nothing here imports the training stack."""

from pathlib import Path
from typing import TYPE_CHECKING

from cdm_core.errors import InvalidInputError, VerificationError
from tasks.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from cdm_core.evidence.trusted_keys import TrustedKeys

Document = dict[str, object]


def run_receipt(directory: Path, request_id: str, out: Path, second_key: Path | None) -> Document:
    """Write a closed request's receipt."""
    from cdm_core.evidence.receipts import verify_receipt
    from cdm_core.evidence.trusted_keys import parse_key_list
    from tasks.evidence.receipts import export_keys, make_receipt
    from tasks.files import check_writable, write_output

    ws = open_workspace(directory)
    check_writable(out)  # before the ledger says that there is a receipt
    content = make_receipt(ws, request_id, second_key)
    verified = verify_receipt(content, parse_key_list(export_keys(ws), "the workspace's keys"))
    write_output(out, content)
    return {"receipt": str(out), "request_id": request_id, "grade": verified.grade, "index": verified.index}


def run_export_keys(directory: Path, out: Path) -> Document:
    """Write the key list for those who check receipts and records elsewhere."""
    from cdm_core.evidence.trusted_keys import parse_key_list
    from tasks.evidence.receipts import export_keys
    from tasks.files import write_output

    content = export_keys(open_workspace(directory))
    write_output(out, content)
    return {"out": str(out), "keys": list(parse_key_list(content, str(out)).names)}


def run_verify(path: Path, directory: Path | None, trust: Path | None) -> Document:
    """Verify a record, a receipt or a ledger, whichever lies at `path`."""
    from cdm_core.evidence.receipts import is_receipt

    if path.name in ("ledger.sqlite", "checkpoint"):
        return _verify_ledger(path, directory, trust)
    content = _read(_resolve(path))
    return _verify_receipt(path, content, directory, trust) if is_receipt(content) else _verify_record(path, directory, trust)


def _verify_receipt(path: Path, content: bytes, directory: Path | None, trust: Path | None) -> Document:
    from cdm_core.evidence.receipts import verify_receipt

    trusted = _read_trusted(directory, trust)
    if trusted is None:
        raise InvalidInputError(f"{path}: say whose keys to trust, with --trust keys.json or --workspace DIR")
    try:
        verified = verify_receipt(content, trusted)
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from error
    predicate = verified.statement.statement["predicate"]
    assert isinstance(predicate, dict)  # verified with the statement
    return {
        "valid": True,
        "grade": verified.grade,
        "keyid": verified.statement.keyids[0],
        "keyids": list(verified.statement.keyids),
        "signers": [trusted.names[keyid] for keyid in verified.statement.keyids],
        "subject": verified.statement.statement["subject"],
        "request_id": predicate["request_id"],
        "status": predicate.get("status"),
        "log": {"origin": verified.checkpoint.origin, "size": verified.checkpoint.size, "index": verified.index},
        "stamped_at": verified.stamped_at.isoformat() if verified.stamped_at else None,
        "trusted_time": verified.trusted_time.to_json(),
        "judged": dict(verified.judged),
    }


def _verify_record(path: Path, directory: Path | None, trust: Path | None) -> Document:
    from cdm_core.evidence.trusted_keys import parse_key_list
    from tasks.evidence.judging import judge_record
    from tasks.evidence.records import find_root, verify_record
    from tasks.keys import load_record_keys

    root = find_root(path.resolve())
    ws = open_workspace(directory) if directory is not None else None if root is None else Workspace(root)
    keys = load_record_keys(ws.keys) if ws is not None and directory is not None else None
    trusted = None if trust is None else parse_key_list(_read(trust), str(trust))
    if trusted is not None:
        keys = list(trusted.keys)
    verified = verify_record(path, keys)
    if trusted is not None and trusted.threshold > 1:  # a record has one signature
        raise VerificationError(f"{path}: signed by 1 of the trusted keys, where {trusted.threshold} are asked for")
    try:
        judgement = judge_record(ws, verified, trusted)
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from error
    return {
        "valid": verified.valid,
        "keyid": verified.keyid,
        "subject": list(verified.subject),
        "records_in_chain": verified.num_chained,
        "artifacts_matching": verified.num_matching,
        "artifacts_superseded": verified.num_superseded,
        "artifacts_absent": verified.num_absent,
        "trusted_time": judgement.time.to_json(),
        "judged": dict(judgement.judged),
    }


def _verify_ledger(path: Path, directory: Path | None, trust: Path | None) -> Document:
    from tasks.deletion.suppressed_bands import check_bands
    from tasks.evidence.judging import judge_ledger
    from tasks.evidence.records import check_logged
    from tasks.ledger.store import Ledger

    ws = _workspace_of(path)
    ledger = Ledger(ws)
    root = ledger.verify()
    num_records = check_logged(ws, ledger)
    check_bands(ws, ledger)
    judged = judge_ledger(ws, ledger, _read_trusted(directory, trust))
    return {"valid": True, "events": len(ledger.events()), "root": root, "records": num_records, "judged": judged}


def _workspace_of(path: Path) -> Workspace:
    """The workspace whose ledger lies at `path`: it can be checked only where its checkpoints and records lie beside it."""
    from tasks.evidence.records import find_root

    found = _resolve(path)
    if not found.is_file():
        raise InvalidInputError(f"{path}: there is no ledger here")
    root = find_root(found)
    if root is None or found.parent != Workspace(root).ledger or not (found.parent / "ledger.sqlite").is_file():
        raise InvalidInputError(f"{path}: is no workspace's ledger, which lies in .lethe/ledger beside its checkpoints and records")
    return Workspace(root)


def _read_trusted(directory: Path | None, trust: Path | None) -> "TrustedKeys | None":
    from cdm_core.evidence.trusted_keys import parse_key_list
    from tasks.evidence.receipts import export_keys

    if trust is not None:
        return parse_key_list(_read(trust), str(trust))
    return None if directory is None else parse_key_list(export_keys(open_workspace(directory)), "the workspace's keys")


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links that lead round in a circle
        raise InvalidInputError(f"{path}: cannot be read: its links lead nowhere") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
