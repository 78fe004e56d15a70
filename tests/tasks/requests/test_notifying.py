"""What senders are told: queued once a stage, delivered, tried again later, and forgotten when it was said."""

import base64
import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from callback_server import CallbackServer
from quick_settings import set_parameters
from tiny_requests import drp_content, opendsr_content

from cdm_core.digests import sha256_digest
from cdm_core.intake.senders import SenderKey, is_signed_by
from tasks.clock import utc_now
from tasks.data.workspace_init import create_workspace
from tasks.keys import create_keys, owner_secret, workspace_signer
from tasks.ledger.store import Ledger
from tasks.requests.notifying import MAX_ATTEMPTS, deliver_callbacks, describe_notifications, queue_callbacks, tell
from tasks.workspace import Workspace

ISSUER = "controller:penelope"
EMAIL = "johanna@withdrawn.example"


@pytest.fixture
def server() -> Iterator[CallbackServer]:
    with CallbackServer() as running:
        yield running


@pytest.fixture(scope="module")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Workspace(tmp_path_factory.mktemp("told") / "ws")
    made.keys.mkdir(parents=True)
    create_keys(made)
    create_workspace(made.root, shards=2, stages=2, pictures=[], secret=owner_secret(made), progress=lambda done, total: None)
    set_parameters(made, {"intake": {"callbacks": True}})
    return made.root


@pytest.fixture
def ws(_template: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(_template, tmp_path / "ws")
    return Workspace(tmp_path / "ws")


def receive(ws: Workspace, content: bytes, form: str, request_id: str) -> Ledger:
    ledger, digest = Ledger(ws), sha256_digest(content)
    ledger.receive(request_id, ISSUER, digest, content, utc_now())
    ledger.append("received", request_id, {"digest": digest, "regulation": "gdpr", "format": form}, utc_now())
    return ledger


def letters(ws: Workspace) -> list[Path]:
    return sorted((ws.ledger / "callbacks").glob("*.json"))


def test_an_opendsr_sender_is_told_at_each_of_its_addresses(ws: Workspace, server: CallbackServer) -> None:
    request_id, content = opendsr_content(EMAIL, [server.url("/a"), server.url("/b"), server.url("/a")])
    ledger = receive(ws, content, "opendsr", request_id)
    ledger.set_status(request_id, "stopped")
    tell(ws, request_id, "stopped")
    tell(ws, request_id, "stopped")  # as a flow that is gone on with does
    assert [received.path for received in server.received] == ["/a", "/b"]
    received = server.received[0]
    document = json.loads(received.body)
    assert document.pop("expected_completion_time")
    assert document == {
        "api_version": "2.0",
        "controller_id": ISSUER,
        "request_status": "in_progress",
        "status_callback_url": server.url("/a"),
        "subject_request_id": request_id,
    }
    key = SenderKey(issuer="us", keyid="", public_key=workspace_signer(ws)._private_key.public_key())
    assert is_signed_by(key, base64.b64decode(received.headers["x-opendsr-signature"]), received.body)
    assert received.headers["x-opendsr-processor-domain"] == "lethe.example"
    events = ledger.events(request_id=request_id, kind="notified")
    assert [event.body["result"] for event in events] == ["sent", "sent"]
    assert events[0].body["url"] == sha256_digest(server.url("/a").encode())
    assert EMAIL.encode() not in b"".join(each.body for each in server.received)

    # Its bytes and its issuer are forgotten before it is told that it's closed.
    ledger.set_status(request_id, "completed", {"status": "completed"})
    ledger.forget_content(request_id)
    tell(ws, request_id, "closed")
    closed = json.loads(server.received[-1].body)
    assert (closed["request_status"], closed["controller_id"]) == ("completed", ISSUER)
    assert letters(ws) == []


def test_each_round_of_a_request_is_told_once(ws: Workspace, server: CallbackServer) -> None:
    """Its held part is carried out after the hold."""
    ledger = receive(ws, drp_content(EMAIL, server.url("/")), "drp", "foo")
    ledger.set_status("foo", "held", {"status": "held"})
    tell(ws, "foo", "closed")
    tell(ws, "foo", "closed")
    ledger.append("requeued", "foo", {"holds": []}, utc_now())
    ledger.set_status("foo", "completed", {"status": "completed"})
    ledger.forget_content("foo")
    tell(ws, "foo", "closed")
    tell(ws, "foo", "closed")
    assert [json.loads(received.body)["status"] for received in server.received] == ["in_progress", "fulfilled"]
    assert letters(ws) == []


def test_a_drp_agent_gets_its_status_object(ws: Workspace, server: CallbackServer) -> None:
    receive(ws, drp_content(EMAIL, server.url("/drp")), "drp", "foo")
    tell(ws, "foo", "stopped")
    document = json.loads(server.received[0].body)
    assert (document["agent_request_id"], document["status"]) == ("foo", "in_progress")
    assert "x-opendsr-signature" not in server.received[0].headers


def test_what_failed_is_tried_again_later_and_given_up_in_the_end(ws: Workspace, server: CallbackServer) -> None:
    ledger = receive(ws, drp_content(EMAIL, server.url("/")), "drp", "foo")
    server.status = 503
    tell(ws, "foo", "stopped")
    assert deliver_callbacks(ws, utc_now()) == 0
    assert len(server.received) == 1  # not due yet
    server.status = 202
    assert deliver_callbacks(ws, utc_now() + timedelta(minutes=2)) == 1
    assert [event.body["result"] for event in ledger.events(kind="notified")] == ["failed", "sent"]

    server.status = 500
    ledger.set_status("foo", "refused", {"reason": "no_match"})
    queue_callbacks(ws, "foo", "refused")
    for day in range(2 * MAX_ATTEMPTS):
        assert deliver_callbacks(ws, utc_now() + timedelta(days=day)) == 0
    assert len(server.received) == 2 + MAX_ATTEMPTS
    assert letters(ws) == []


def test_an_address_that_may_not_be_told_stops_nothing(ws: Workspace) -> None:
    ledger = receive(ws, drp_content(EMAIL, "http://example.com/"), "drp", "foo")
    tell(ws, "foo", "stopped")
    (event,) = ledger.events(kind="notified")
    assert (event.body["result"], event.body["http_status"]) == ("failed", None)


def test_nothing_is_sent_unasked(ws: Workspace, server: CallbackServer) -> None:
    set_parameters(ws, {"intake": {"callbacks": False}})
    receive(ws, drp_content(EMAIL, server.url("/")), "drp", "foo")
    tell(ws, "foo", "stopped")
    assert (server.received, letters(ws), Ledger(ws).events(kind="notified")) == ([], [], [])


def test_a_request_without_addresses_leaves_nothing_behind(ws: Workspace) -> None:
    receive(ws, drp_content(EMAIL, None), "drp", "foo")
    tell(ws, "foo", "stopped")
    assert letters(ws) == []


def test_a_closing_record_is_told_of_what_was_left_and_sent(ws: Workspace, server: CallbackServer) -> None:
    ledger = receive(ws, drp_content(EMAIL, server.url("/")), "drp", "foo")
    ledger.append("stopped", "foo", {}, utc_now())
    tell(ws, "foo", "stopped")
    entries = describe_notifications(ws, "foo", "completed", utc_now(), num_erased=1, is_forgotten=True)
    assert entries is not None
    assert [(entry["stage"], entry["how"]) for entry in entries] == [  # type: ignore[index, call-overload]
        ("received", "left"),
        ("stopped", "left"),
        ("closed", "left"),
        ("stopped", "callback"),
    ]
    assert entries[3]["digest"] == sha256_digest(server.received[0].body)  # type: ignore[index, call-overload]
    assert describe_notifications(ws, "foo", "completed", utc_now(), num_erased=1, is_forgotten=True)[0]["digest"] != entries[2]["digest"]  # type: ignore[index, call-overload]
    ledger.receive("@batch-1", "batch", sha256_digest(b"batch"), b"batch", utc_now())
    assert describe_notifications(ws, "@batch-1", "completed", utc_now(), num_erased=1, is_forgotten=True) is None
