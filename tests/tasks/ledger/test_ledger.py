"""The ledger: append-only, a tree, idempotent, and able to forget."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from three_events import NOW, append_three

from cdm_core.digests import Json, canonical_json, json_digest, sha256_digest
from cdm_core.errors import RequestRefusedError, StateError, VerificationError
from cdm_core.evidence.merkle import verify_consistency
from cdm_core.evidence.signed_note import verify_checkpoint, verify_log_proof
from tasks.keys import create_keys, load_record_keys
from tasks.ledger.store import Ledger, StoredRequest
from tasks.workspace import Workspace

CONTENT = b"owner_ids: [johanna]"
DIGEST = sha256_digest(CONTENT)


def edit(ledger: Ledger, statement: str, *, without_triggers: bool = True) -> None:
    """Change the file as somebody who has it would."""
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as connection:
        if without_triggers:
            for trigger in ("events_keep_values", "events_keep_rows", "events_keep_order"):
                connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(statement)


def close_two(ledger: Ledger) -> None:
    """Close r-1 and r-2 together."""
    with ledger.together():
        ledger.set_status("r-1", "completed", {"number": 1})
        ledger.forget_content("r-1")
        ledger.forget_content("r-2")


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


def test_what_is_written_together_is_there_as_a_whole_or_not_at_all(ledger: Ledger) -> None:
    other = Ledger(Workspace(ledger.path.parents[2]))
    with ledger.together():
        ledger.receive("r-1", "owner:johanna", DIGEST, CONTENT, NOW)
        ledger.append("received", "r-1", {}, NOW)
        assert (ledger.request("r-1") is not None, other.request("r-1"), other.events()) == (True, None, [])
    assert [event.kind for event in other.events()] == ["status", "received"]
    with pytest.raises(StateError, match=r"^request r-2: not in the ledger$"):
        close_two(ledger)
    stored = other.request("r-1")
    assert stored is not None
    assert (stored.status, stored.answer, stored.content) == ("received", None, CONTENT)
    ledger.append("later", "r-1", {}, NOW)  # by itself again
    assert [event.kind for event in other.events()] == ["status", "received", "later"]
    other.verify()


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
        "INSERT INTO events VALUES (7, '', 'step', NULL, '{}', '')",
        "INSERT OR REPLACE INTO events VALUES (2, '', 'step', NULL, '{}', '')",
    ],
)
def test_events_are_append_only(ledger: Ledger, statement: str) -> None:
    append_three(ledger)
    with pytest.raises(sqlite3.IntegrityError, match="events are append-only"):
        edit(ledger, statement, without_triggers=False)
    assert ledger.verify() is not None


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE events SET body = '{}' WHERE seq = 2", "event 2 was changed"),
        ("UPDATE events SET body = '{' WHERE seq = 2", "event 2 was changed"),
        ("UPDATE events SET at = 'never' WHERE seq = 3", "event 3 was changed"),
        ("UPDATE events SET kind = 'stop' WHERE seq = 1", "event 1 was changed"),
        ("UPDATE events SET request_id = NULL WHERE seq = 1", "event 1 was changed"),
        ("UPDATE events SET leaf = 'ab' WHERE seq = 3", "event 3 was changed"),
        ("UPDATE events SET leaf = replace(leaf, substr(leaf, 1, 1), 'g') WHERE seq = 3", "event 3 was changed"),
        ("UPDATE events SET leaf = (SELECT leaf FROM events WHERE seq = 1) WHERE seq = 3", "event 3 was changed"),
        ("DELETE FROM salts WHERE seq = 2", "event 2 was changed"),
        ("INSERT INTO salts VALUES (9, x'00')", "1 salts belong to no event"),
        ("DELETE FROM events WHERE seq = 1", "event 1 is missing"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        ("UPDATE events SET seq = CASE seq WHEN 2 THEN -3 WHEN 3 THEN -2 ELSE 1 END", "event 1 is missing"),
    ],
)
def test_an_edit_is_found(ledger: Ledger, statement: str, message: str) -> None:
    append_three(ledger)
    edit(ledger, statement)
    with pytest.raises(VerificationError, match=message):
        ledger.verify()


def test_swapped_events_are_found(ledger: Ledger) -> None:
    append_three(ledger)
    edit(ledger, "UPDATE events SET seq = -seq")
    edit(ledger, "UPDATE events SET seq = CASE seq WHEN -2 THEN 3 WHEN -3 THEN 2 ELSE 1 END", without_triggers=False)
    with pytest.raises(VerificationError, match="event 2 was changed"):
        ledger.verify()


def test_an_empty_ledger_holds(ledger: Ledger) -> None:
    assert ledger.verify() is None


def test_writers_at_once_make_one_tree(ledger: Ledger) -> None:
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


def test_requests_by_where_they_stand_and_by_what_is_kept(ledger: Ledger) -> None:
    for request_id in ("r-1", "r-2", "r-3"):
        ledger.receive(request_id, "agency", DIGEST, CONTENT, NOW)
    close_two(ledger)

    def named(stored: list[StoredRequest]) -> list[str]:
        return [each.request_id for each in stored]

    assert named(ledger.requests(status="received")) == ["r-2", "r-3"]
    assert named(ledger.requests(with_content=True)) == ["r-3"]
    assert named(ledger.requests(status="completed", with_content=True)) == []
    assert named(ledger.requests()) == ["r-1", "r-2", "r-3"]


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


@pytest.mark.parametrize(("start", "step"), [(0, 131), *(pytest.param(start, 8, marks=pytest.mark.slow) for start in range(8))])
def test_every_changed_byte_of_the_file_is_refused_or_changes_nothing(signed: Ledger, start: int, step: int) -> None:
    """The slow ones take every byte. SQLite's unused bytes mean nothing: a change there is one in what no reader sees."""
    signed.receive("r-0", "agency", DIGEST, CONTENT, NOW)
    signed.set_status("r-0", "completed", {"model_version": 2})
    signed.suppress(["a", "b"], NOW)
    signed.sign_checkpoint()
    content, before = signed.path.read_bytes(), _read_all(signed)
    refused = 0
    for position in range(start, len(content), step):
        signed.path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            signed.verify()
        except (VerificationError, StateError):
            refused += 1
        else:
            assert _read_all(signed) == before, position
    assert refused


def _read_all(ledger: Ledger) -> list[object]:
    return [ledger.events(), [replace(stored, issuer=None) for stored in ledger.requests()], ledger.is_suppressed(["a", "b", "c"])]


def test_unlinking_a_person_breaks_no_proof(signed: Ledger) -> None:
    ws = Workspace(signed.path.parents[2])
    signed.receive("r-0", "owner:johanna", DIGEST, CONTENT, NOW)
    opened, proof, checkpoint = signed.open_event(1), signed.prove(1), signed.sign_checkpoint()
    with pytest.raises(StateError, match="request r-0: is not closed; its status is received"):
        signed.unlink(["r-0"], [], NOW)
    signed.set_status("r-0", "completed")
    assert signed.unlink(["r-0"], ["spent"], NOW) == 4
    assert signed.is_suppressed(["spent"]) == {"spent"}
    assert b"r-0" not in signed.path.read_bytes()
    assert opened.salt not in signed.path.read_bytes()
    assert [(event.seq, event.kind) for event in signed.events()] == [(2, "step"), (6, "unlinked"), (7, "suppression")]
    assert signed.request("r-0") is None
    assert signed.verify()
    verify_log_proof(proof, bytes.fromhex(opened.commitment), load_record_keys(ws.keys))
    later = verify_checkpoint(signed.sign_checkpoint(), load_record_keys(ws.keys))
    first = verify_checkpoint(checkpoint, load_record_keys(ws.keys))
    verify_consistency(first.size, later.size, signed.prove_consistency(first.size, later.size), first.root, later.root)
    assert verify_log_proof(signed.prove(1), bytes.fromhex(opened.commitment), load_record_keys(ws.keys)).size == 7
    with pytest.raises(StateError, match="event 1 isn't there or was unlinked"):
        signed.open_event(1)
    with pytest.raises(StateError, match="request r-0: not in the ledger"):
        signed.unlink(["r-0"], [], NOW)


def test_a_signed_event_that_was_unlinked_by_hand_is_missed(signed: Ledger) -> None:
    edit(signed, "DELETE FROM salts WHERE seq = 2")
    edit(signed, "UPDATE events SET body = NULL, request_id = NULL WHERE seq = 2", without_triggers=False)
    with pytest.raises(VerificationError, match="1 events can't be opened, and 0 were unlinked"):
        signed.verify()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE requests SET answer = replace(answer, '2', '3') WHERE request_id = 'r-0'", "r-0: its status or answer isn't"),
        ("UPDATE requests SET answer = NULL WHERE request_id = 'r-0'", "r-0: its status or answer isn't"),
        ("UPDATE requests SET status = 'refused' WHERE request_id = 'r-0'", "r-0: its status or answer isn't"),
        (
            "UPDATE requests SET received_at = '2026-11-25T09:00:00.000000+00:00' WHERE request_id = 'r-0'",
            "r-0: its status or answer isn't",
        ),
        ("UPDATE requests SET request_id = 'r-9' WHERE request_id = 'r-0'", "r-9: its status or answer isn't"),
        ("UPDATE requests SET digest = '00' WHERE request_id = 'r-0'", "r-0: its status or answer isn't"),
        ("UPDATE requests SET content = x'00' WHERE request_id = 'r-1'", "r-1: its bytes were changed"),
        ("DELETE FROM requests WHERE request_id = 'r-0'", "r-0: the events tell of it and it is gone"),
        (
            "INSERT INTO requests SELECT 'r-9', issuer, digest, content, status, answer, received_at FROM requests LIMIT 1",
            "r-9: its status",
        ),
        ("DELETE FROM suppressed WHERE hmac = 'a'", "the suppression list isn't what the events tell of"),
        ("INSERT INTO suppressed VALUES ('c', '')", "the suppression list isn't what the events tell of"),
        ("UPDATE suppressed SET hmac = 'c' WHERE hmac = 'a'", "the suppression list isn't what the events tell of"),
    ],
)
def test_an_edited_status_answer_or_list_is_found(signed: Ledger, statement: str, message: str) -> None:
    for request_id in ("r-0", "r-1"):
        signed.receive(request_id, "agency", DIGEST, CONTENT, NOW)
    signed.set_status("r-0", "completed", {"model_version": 2})
    signed.forget_content("r-0")
    signed.suppress(["a", "b"], NOW)
    assert signed.verify()
    edit(signed, statement, without_triggers=False)
    with pytest.raises(VerificationError, match=message):
        signed.verify()
    with pytest.raises(VerificationError, match=message):
        signed.sign_checkpoint()


def test_an_entry_in_a_list_that_no_event_tells_of_is_found(signed: Ledger) -> None:
    edit(signed, "INSERT INTO suppressed VALUES ('c', '')", without_triggers=False)
    with pytest.raises(VerificationError, match="has entries, and no event tells of them"):
        signed.verify()


def test_the_same_status_again_adds_no_event(signed: Ledger) -> None:
    signed.receive("r-0", "agency", DIGEST, CONTENT, NOW)
    signed.set_status("r-0", "completed", {"model_version": 2})
    size = len(signed.events())
    signed.receive("r-0", "agency", DIGEST, CONTENT, NOW)
    signed.set_status("r-0", "completed")
    assert len(signed.events()) == size
    body = signed.events(request_id="r-0", kind="status")[-1].body
    assert body == {
        "answer": sha256_digest(b'{"model_version":2}'),
        "digest": DIGEST,
        "received_at": body["received_at"],
        "status": "completed",
    }


def test_requests_and_list_of_an_earlier_release_are_taken_over_once(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    create_keys(ws)
    ledger = Ledger(ws)
    edit(ledger, f"INSERT INTO requests VALUES ('r-0', NULL, '{DIGEST}', NULL, 'completed', '{{}}', '2026')", without_triggers=False)
    edit(ledger, "INSERT INTO suppressed VALUES ('a', '2026')", without_triggers=False)
    ledger = Ledger(ws)
    assert [event.kind for event in ledger.events()] == ["status", "suppression"]
    assert ledger.verify()
    edit(ledger, f"INSERT INTO requests VALUES ('r-1', NULL, '{DIGEST}', NULL, 'completed', '{{}}', '2026')", without_triggers=False)
    with pytest.raises(VerificationError, match="r-1: its status or answer isn't"):
        Ledger(ws).verify()


def test_a_list_is_not_taken_over_once_this_release_has_written(signed: Ledger) -> None:
    signed.receive("r-0", "agency", DIGEST, CONTENT, NOW)
    edit(signed, "INSERT INTO suppressed VALUES ('c', '')", without_triggers=False)
    size = len(signed.events())
    with pytest.raises(VerificationError, match="has entries, and no event tells of them"):
        Ledger(Workspace(signed.path.parents[2])).verify()
    assert len(signed.events()) == size


def test_what_was_noted_just_now_is_not_unlinked_before_it_is_signed(signed: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    signed.receive("r-0", "agency", DIGEST, CONTENT, NOW)
    signed.set_status("r-0", "completed", {})
    sign = Ledger.sign_checkpoint

    def sign_and_note(self: Ledger) -> bytes:
        content = sign(self)
        self.append("receipt", "r-0", {}, NOW)
        return content

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "sign_checkpoint", sign_and_note)
        with pytest.raises(StateError, match=r"^request r-0: something was noted of it just now; try again$"):
            signed.unlink(["r-0"], [], NOW)
    assert signed.verify()
    assert signed.unlink(["r-0"], [], NOW) > 0
    assert signed.verify()


@pytest.mark.parametrize("body", [{}, {"events": "x"}, {"events": None}])
def test_an_unlinking_that_tells_no_count_is_none_of_ours(signed: Ledger, body: dict[str, Json]) -> None:
    signed.append("unlinked", None, body, NOW)
    with pytest.raises(VerificationError, match="an event of unlinking says no count"):
        signed.verify()


def test_what_nobody_signed_cannot_be_unlinked_by_hand(signed: Ledger) -> None:
    signed.append("step", "r-7", {}, NOW)
    edit(signed, "DELETE FROM salts WHERE seq = 4")
    edit(signed, "UPDATE events SET body = NULL, request_id = NULL WHERE seq = 4", without_triggers=False)
    for check in (signed.verify, signed.sign_checkpoint):
        with pytest.raises(VerificationError, match="event 4 can't be opened, and no checkpoint holds it"):
            check()


OLD_TABLES = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, request_id TEXT, body TEXT NOT NULL, previous TEXT, digest TEXT NOT NULL
) STRICT;
CREATE TRIGGER events_keep_values BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_keep_rows BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
"""


def make_old_ledger(ws: Workspace, *, last_body: str = '{"number":1}') -> str:
    """A ledger of the first version, of two events; returns its head."""
    ws.ledger.mkdir(parents=True)
    previous = None
    with closing(sqlite3.connect(ws.ledger / "ledger.sqlite", isolation_level=None)) as connection:
        connection.executescript(OLD_TABLES)
        for number in range(2):
            event = {"at": NOW.isoformat(timespec="microseconds"), "kind": "step", "request_id": "r-1", "body": {"number": number}}
            digest = json_digest({**event, "seq": number + 1, "previous": previous})
            body = last_body if number else canonical_json(event["body"]).decode()
            row = (number + 1, event["at"], "step", "r-1", body, previous, digest)
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            previous = digest
    assert previous is not None
    return previous


def test_a_ledger_of_the_first_version_becomes_a_tree(tmp_path: Path) -> None:
    head = make_old_ledger(Workspace(tmp_path))
    ledger = Ledger(Workspace(tmp_path))
    assert [event.body for event in ledger.events(request_id="r-1")] == [{"number": 0}, {"number": 1}]
    assert ledger.events()[-1].body == {"events": 2, "head": head}
    assert ledger.verify()
    assert len(Ledger(Workspace(tmp_path)).events()) == 3


def test_a_broken_chain_is_not_taken_over(tmp_path: Path) -> None:
    make_old_ledger(Workspace(tmp_path), last_body='{"number":2}')
    with pytest.raises(VerificationError, match="event 2 doesn't hold; the ledger isn't taken over"):
        Ledger(Workspace(tmp_path))
