"""`lethe verify` of a ledger: where it lies, by whose keys, and against the records that were signed over it."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_judging import auditors_list, carry_out

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from flows.receipts import run_export_keys, run_verify
from tasks.evidence.records import append_record
from tasks.keys import create_keys
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

HOUR = timedelta(hours=1)
MODEL = {"composed-model@4": sha256_digest(b"another model")}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return carry_out(tmp_path / "ws")[0]


def test_only_a_workspaces_ledger_in_its_place_is_one(ws: Workspace, tmp_path: Path) -> None:
    backup = ws.private / "backup" / "ledger.sqlite"
    backup.parent.mkdir()
    shutil.copy(ws.ledger / "ledger.sqlite", backup)
    shutil.copy(backup, tmp_path / "ledger.sqlite")
    for path in (backup, tmp_path / "ledger.sqlite"):
        with pytest.raises(InvalidInputError, match=r"is no workspace's ledger, which lies in \.lethe/ledger"):
            run_verify(path, None, None)
    with pytest.raises(InvalidInputError, match="there is no ledger here"):
        run_verify(ws.root / "no" / "such" / "ledger.sqlite", None, None)


def test_it_is_judged_by_an_auditors_list(ws: Workspace, tmp_path: Path) -> None:
    path = ws.ledger / "ledger.sqlite"
    run_export_keys(ws.root, ws.root / "keys.json")
    assert run_verify(path, None, ws.root / "keys.json") == run_verify(path, None, None) == run_verify(path, ws.root, None)
    assert run_verify(path, None, auditors_list(ws, revoked_at=datetime.now(UTC) + HOUR))["valid"] is True
    with pytest.raises(VerificationError, match=r"record .* was revoked since .*as the ledger recorded it"):
        run_verify(path, None, auditors_list(ws, revoked_at=datetime.now(UTC) - HOUR))
    other = Workspace(tmp_path / "other")
    create_keys(other)
    shutil.copy(ws.root / "params.yaml", other.root)
    run_export_keys(other.root, other.root / "keys.json")
    with pytest.raises(VerificationError, match=r"no checkpoint that a trusted key signed stands for it"):
        run_verify(path, None, other.root / "keys.json")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        run_verify(path, None, tmp_path / "none.json")


def test_a_ledger_that_nobody_signed_gives_a_record_no_time(ws: Workspace, tmp_path: Path) -> None:
    """Whoever has a genuine record can lay a ledger of their own beside it."""
    record = next(ws.records.iterdir())
    revoked = auditors_list(ws, revoked_at=datetime(2021, 1, 1, tzinfo=UTC))
    forged = Workspace(tmp_path / "forged")
    forged.keys.mkdir(parents=True)
    forged.records.mkdir(parents=True)
    shutil.copy(ws.keys / "workspace.pem", forged.keys)
    shutil.copy(ws.keys / "registry.json", forged.keys)
    copy = Path(shutil.copy(record, forged.records))
    ledger, then = Ledger(forged), datetime(2020, 1, 1, tzinfo=UTC)
    for _ in range(20):  # so that it isn't shorter than the tree that the record names
        ledger.append("record", None, {"record": record.name, "digest": sha256_digest(record.read_bytes())}, then)
    with pytest.raises(VerificationError, match=r"aren't its first .* now: it was put back"):
        run_verify(copy, None, revoked)
    (forged.ledger / "ledger.sqlite").unlink()
    shutil.copy(ws.ledger / "ledger.sqlite", forged.ledger)  # the genuine one, without its checkpoints
    with pytest.raises(VerificationError, match=r"was revoked since .*no trusted time is at hand"):
        run_verify(copy, None, revoked)


def put_back(ws: Workspace, kept: Path) -> None:
    """Database and checkpoints as they were; the records stay."""
    (ws.ledger / "ledger.sqlite").unlink()
    shutil.rmtree(ws.ledger / "checkpoints")
    for source in kept.iterdir():
        (shutil.copytree if source.is_dir() else shutil.copy)(source, ws.ledger / source.name)


def empty(ws: Workspace, kept: Path) -> None:
    """No database, no checkpoint; the records stay."""
    (ws.ledger / "ledger.sqlite").write_bytes(b"")
    (ws.ledger / "checkpoint").unlink()
    shutil.rmtree(ws.ledger / "checkpoints")


@pytest.mark.parametrize("roll_back", [put_back, empty])
def test_a_ledger_put_back_is_seen_by_the_records(ws: Workspace, tmp_path: Path, roll_back: Callable[[Workspace, Path], None]) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("ledger.sqlite", "checkpoint"):
        shutil.copy(ws.ledger / name, kept)
    shutil.copytree(ws.ledger / "checkpoints", kept / "checkpoints")
    for number in range(2):
        record = append_record(ws, "decision", MODEL, {"step_key": f"r-{number}:decide"})
    assert run_verify(record, None, None)["valid"] is True
    roll_back(ws, kept)
    with pytest.raises(VerificationError, match=r"aren't its first .* now: it was put back"):
        run_verify(record, None, None)
    with pytest.raises(VerificationError, match=rf"{ws.records}.*aren't its first .* now: it was put back"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)
    with pytest.raises(VerificationError, match="it was put back"):
        append_record(ws, "decision", MODEL, {"step_key": "r-9:decide"})
