"""The ledger: append-only, chained, idempotent, and able to forget."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError, StateError, VerificationError
from tasks.ledger import Ledger
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
CONTENT = b"owner_ids: [johanna]"
DIGEST = sha256_digest(CONTENT)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Workspace(tmp_path))


def edit(ledger: Ledger, statement: str, *, without_triggers: bool = True) -> None:
    """Change the file as somebody who has it would."""
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as connection:
        if without_triggers:
            for trigger in ("events_keep_values", "events_keep_rows", "events_keep_order"):
                connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(statement)


def append_three(ledger: Ledger) -> None:
    for number in range(3):
        ledger.append("step", f"r-{number % 2}", {"number": number, "share": 0.5, "name": "Zoë"}, NOW + timedelta(seconds=number))


def test_events_come_back_as_they_went_in(ledger: Ledger) -> None:
    append_three(ledger)
    other = ledger.append("start", None, {}, NOW)
    reopened = Ledger(Workspace(ledger.path.parents[2]))
    assert [event.seq for event in reopened.events()] == [1, 2, 3, 4]
    assert reopened.events()[1].body == {"number": 1, "share": 0.5, "name": "Zoë"}
    assert reopened.events()[1].at == NOW + timedelta(seconds=1)
    assert reopened.events()[3] == other
    assert [event.seq for event in reopened.events(request_id="r-0")] == [1, 3]
    assert [event.seq for event in reopened.events(kind="start")] == [4]
    assert [event.seq for event in reopened.events(request_id="r-0", kind="start")] == []


def test_last(ledger: Ledger) -> None:
    append_three(ledger)
    ledger.append("step", None, {}, NOW)
    found = ledger.last("step", "r-0")
    assert found is not None
    assert found.seq == 3
    assert (about_none := ledger.last("step", None)) is not None
    assert about_none.seq == 4
    assert ledger.last("stop", "r-0") is None


def test_times_are_kept_in_utc(ledger: Ledger) -> None:
    event = ledger.append("step", None, {}, datetime(2026, 11, 24, 10, tzinfo=timezone(timedelta(hours=1))))
    assert event.at == NOW
    with pytest.raises(ValueError, match="a time in the ledger needs a time zone"):
        ledger.append("step", None, {}, datetime(2026, 11, 24))
    assert len(ledger.events()) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = '{}' WHERE seq = 2",
        "DELETE FROM events WHERE seq = 3",
        "INSERT INTO events VALUES (7, '', 'step', NULL, '{}', NULL, '')",
        "INSERT OR REPLACE INTO events VALUES (2, '', 'step', NULL, '{}', NULL, '')",
    ],
)
def test_events_are_append_only(ledger: Ledger, statement: str) -> None:
    append_three(ledger)
    with pytest.raises(sqlite3.IntegrityError, match="events are append-only"):
        edit(ledger, statement, without_triggers=False)
    assert ledger.verify() == ledger.events()[-1].digest


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE events SET body = '{}' WHERE seq = 2", "event 2 was changed"),
        ("UPDATE events SET body = '{' WHERE seq = 2", "event 2 was changed"),
        ("UPDATE events SET at = 'never' WHERE seq = 3", "event 3 was changed"),
        ("UPDATE events SET kind = 'stop' WHERE seq = 1", "event 1 was changed"),
        ("UPDATE events SET request_id = NULL WHERE seq = 1", "event 1 was changed"),
        ("UPDATE events SET digest = 'ab' WHERE seq = 3", "event 3 was changed"),
        ("UPDATE events SET previous = NULL WHERE seq = 2", "event 2 doesn't follow the event before it"),
        ("DELETE FROM events WHERE seq = 1", "event 1 is missing"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        ("UPDATE events SET seq = CASE seq WHEN 2 THEN -3 WHEN 3 THEN -2 ELSE 1 END", "event 1 is missing"),
    ],
)
def test_an_edit_breaks_the_chain(ledger: Ledger, statement: str, message: str) -> None:
    append_three(ledger)
    edit(ledger, statement)
    with pytest.raises(VerificationError, match=message):
        ledger.verify()


def test_swapped_events_break_the_chain(ledger: Ledger) -> None:
    append_three(ledger)
    edit(ledger, "UPDATE events SET seq = -seq")
    edit(ledger, "UPDATE events SET seq = CASE seq WHEN -2 THEN 3 WHEN -3 THEN 2 ELSE 1 END", without_triggers=False)
    with pytest.raises(VerificationError, match="event 2 doesn't follow the event before it"):
        ledger.verify()


def test_an_empty_ledger_holds(ledger: Ledger) -> None:
    assert ledger.verify() is None


def test_writers_at_once_make_one_chain(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ledger.append("step", None, {"number": number}, NOW), range(24)))
    assert len(ledger.events()) == 24
    assert ledger.verify() is not None


def test_receiving_the_same_bytes_again_changes_nothing(ledger: Ledger) -> None:
    first = ledger.receive("r-1", "owner:johanna", DIGEST, CONTENT, NOW)
    assert (first.status, first.content, first.answer, first.received_at) == ("received", CONTENT, None, NOW)
    ledger.set_status("r-1", "completed", {"model_version": 2})
    again = ledger.receive("r-1", "owner:johanna", DIGEST, CONTENT, NOW + timedelta(days=1))
    assert (again.status, again.answer, again.received_at) == ("completed", {"model_version": 2}, NOW)


@pytest.mark.parametrize("issuer", ["owner:johanna", "agency"])
def test_a_taken_id_is_refused_for_another_body(ledger: Ledger, issuer: str) -> None:
    first = ledger.receive("r-1", "owner:johanna", DIGEST, CONTENT, NOW)
    with pytest.raises(RequestRefusedError, match="request r-1: the id is already taken by another request body") as caught:
        ledger.receive("r-1", issuer, sha256_digest(b"other"), b"other", NOW)
    assert caught.value.reason == "request_id_reused"
    assert ledger.requests() == [first]


def test_requests_in_order_of_receipt(ledger: Ledger) -> None:
    for number in (2, 1, 3):
        ledger.receive(f"r-{number}", "agency", DIGEST, CONTENT, NOW + timedelta(seconds=-number))
    assert [request.request_id for request in ledger.requests()] == ["r-3", "r-2", "r-1"]
    assert ledger.request("r-9") is None


def test_a_status_keeps_the_answer_before(ledger: Ledger) -> None:
    ledger.receive("r-1", "agency", DIGEST, CONTENT, NOW)
    ledger.set_status("r-1", "needs_review", {"model_version": 2})
    ledger.set_status("r-1", "rejected")
    stored = ledger.request("r-1")
    assert stored is not None
    assert (stored.status, stored.answer) == ("rejected", {"model_version": 2})


def test_unknown_requests_and_statuses(ledger: Ledger) -> None:
    with pytest.raises(StateError, match="request r-1: not in the ledger"):
        ledger.set_status("r-1", "completed")
    with pytest.raises(StateError, match="request r-1: not in the ledger"):
        ledger.forget_content("r-1")
    with pytest.raises(ValueError, match="'done' is not a status"):
        ledger.set_status("r-1", "done")


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_forgotten_request_leaves_no_name_in_the_file(ledger: Ledger, size: int) -> None:
    content = CONTENT * size
    ledger.receive("r-1", "owner:johanna", sha256_digest(content), content, NOW)
    assert b"johanna" in ledger.path.read_bytes()
    ledger.set_status("r-1", "completed", {"model_version": 2})
    ledger.forget_content("r-1")
    assert b"johanna" not in ledger.path.read_bytes()
    assert [path.name for path in ledger.path.parent.iterdir()] == ["ledger.sqlite"]
    stored = ledger.receive("r-1", "owner:johanna", sha256_digest(content), content, NOW)
    assert (stored.status, stored.content, stored.issuer) == ("completed", None, None)


def test_suppression(ledger: Ledger) -> None:
    ledger.suppress(["a", "b"], NOW)
    ledger.suppress(["b", "c"], NOW)
    assert ledger.is_suppressed(["a", "c", "d"]) == {"a", "c"}
    assert ledger.is_suppressed([]) == set()
    assert ledger.is_suppressed([str(number) for number in range(100_000)]) == set()


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.ledger.mkdir(parents=True)
    (ws.ledger / "ledger.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 20)
    with pytest.raises(StateError, match=r"ledger\.sqlite: the ledger can't be used: file is not a database"):
        Ledger(ws)
