"""The run of a request file, without Prefect and with the deletion itself left out: which files are gone after it, and when it fails."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cdm_core.errors import InvalidInputError, RequestRefusedError
from flows import receive
from tasks.clock import utc_now
from tasks.keys import add_issuer, create_keys, sign_file
from tasks.ledger.store import Ledger
from tasks.requests import intake, request_images
from tasks.requests.inbox import create_inbox, scan_inbox
from tasks.workspace import Workspace

PARAMETERS = Path(__file__).resolve().parents[2] / "params.yaml"

Document = dict[str, object]


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    ws = Workspace(tmp_path / "ws")
    create_keys(ws)
    (ws.root / "params.yaml").write_bytes(PARAMETERS.read_bytes())
    ws.ledger.mkdir(parents=True, exist_ok=True)
    create_inbox(ws)
    add_issuer(ws, "agency", None)
    monkeypatch.setattr(receive, "end_with_parent", lambda: None)
    monkeypatch.setattr(receive, "_try_standby", lambda *arguments: None)
    monkeypatch.setattr(receive, "receive_waiting", lambda *arguments: None)
    monkeypatch.setattr(receive, "utc_now", later)
    return ws


def later() -> datetime:
    """When what was just put has been left alone for long enough, even without a signature."""
    return utc_now() + timedelta(minutes=1)


def put(ws: Workspace, name: str, request_id: str, **subject: list[str]) -> Path:
    path = ws.inbox / "requests" / name
    document = {"schema": "lethe/deletion-request/v1", "request_id": request_id, "issuer": "agency", "regulation": "gdpr"}
    path.write_text(json.dumps({**document, "submitted_at": "2026-11-24T09:00:00Z", "subject": subject}))
    sign_file(ws, path, "agency")
    return path


def run(ws: Workspace, path: Path) -> None:
    (item,) = (found for found in scan_inbox(ws, later()) if found.path == path)
    receive.receive_request.fn(str(ws.root), item.name)


def left(ws: Workspace) -> set[str]:
    return {path.name for path in (ws.inbox / "requests").iterdir()}


def complete(meanwhile: Callable[[], object]) -> Callable[..., Document]:
    def forget(ws: Workspace, request_id: str, *, show_progress: bool) -> Document:
        meanwhile()
        return {"request_id": request_id, "status": "completed", "model_version": 2}

    return forget


def test_a_request_put_under_the_same_name_meanwhile_is_taken_in_next(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(ws, "export.json", "first", owner_ids=["ada"])
    monkeypatch.setattr(receive, "forget_received", complete(lambda: put(ws, "export.json", "second", owner_ids=["ben"])))
    run(ws, path)
    assert left(ws) == {"export.json", "export.json.sig"}
    monkeypatch.setattr(receive, "forget_received", complete(lambda: None))
    run(ws, path)
    assert left(ws) == set()
    assert [stored.request_id for stored in Ledger(ws).requests()] == ["first", "second"]


def test_a_request_that_names_anothers_file_as_its_picture_does_not_remove_it(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = put(ws, "victim.json", "victim", owner_ids=["ada"])
    victim.with_name("victim.json.sig").unlink()
    path = put(ws, "a.json", "evil", image_files=["victim.json"])

    def refuse(ws: Workspace, request_id: str, *, show_progress: bool) -> Document:
        raise RequestRefusedError("evil: image_files: victim.json: not a picture", reason="bad_image")

    monkeypatch.setattr(receive, "forget_received", refuse)
    run(ws, path)
    assert left(ws) == {"victim.json"}


@pytest.mark.parametrize(("module", "name"), [(intake, "_read_small"), (request_images, "_read_image")])
def test_a_file_that_cannot_be_read_for_a_moment_refuses_nobody(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    (ws.inbox / "requests" / "a.png").write_bytes(b"picture")
    path = put(ws, "a.json", "r-1", image_files=["a.png"])

    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(module, name, fail)
        with pytest.raises((InvalidInputError, RequestRefusedError), match="can't be read"):
            run(ws, path)
    assert left(ws) == {"a.json", "a.json.sig", "a.png"}
    assert list((ws.inbox / "refused").iterdir()) == []
    monkeypatch.setattr(receive, "forget_received", complete(lambda: None))
    run(ws, path)
    assert left(ws) == set()


def test_a_picture_whose_name_cannot_be_one_is_refused_for_good(ws: Workspace) -> None:
    run(ws, put(ws, "a.json", "r-1", image_files=["a" * 300]))
    assert left(ws) == set()
    (answer,) = (ws.inbox / "refused").iterdir()
    assert json.loads(answer.read_bytes())["reason"] == "image_missing"
