"""The inbox: what counts as complete, how items are named, and what is left of them."""

import json
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError
from tasks.clock import utc_now
from tasks.requests.inbox import (
    SETTLED_SECONDS,
    UNSIGNED_SECONDS,
    InboxItem,
    create_inbox,
    find_item,
    read_owner,
    record_outcome,
    remove_arrival,
    remove_request,
    reopen_arrival,
    retell_outcome,
    scan_inbox,
)
from tasks.workspace import Workspace

OWNER = json.dumps({"owner_id": "johanna", "tier": None})


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    create_inbox(made)
    return made


def after(seconds: float) -> datetime:
    """So many seconds from now: as if what was just written had been left alone for that long."""
    return utc_now() + timedelta(seconds=seconds)


def put_request(ws: Workspace, name: str = "johanna.yaml", *, content: bytes = b"request", signed: bool = True) -> Path:
    path = ws.inbox / "requests" / name
    path.write_bytes(content)
    if signed:
        path.with_name(name + ".sig").write_bytes(b"signature")
    return path


def put_arrival(ws: Workspace, name: str = "johanna", owner: str | None = OWNER, **pictures: bytes) -> Path:
    folder = ws.inbox / "arrivals" / name
    folder.mkdir()
    for picture, content in (pictures or {"a": b"picture"}).items():
        (folder / f"{picture}.png").write_bytes(content)
    if owner is not None:
        (folder / "owner.json").write_text(owner)
    return folder


def scan(ws: Workspace, seconds: float = 60) -> list[InboxItem]:
    return scan_inbox(ws, after(seconds))


def only(ws: Workspace) -> InboxItem:
    (item,) = scan(ws)
    return item


def test_only_the_owner_of_the_workspace_can_look_into_it(ws: Workspace) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in (ws.inbox, *ws.inbox.iterdir())} == {0o700}


def test_a_signed_request_is_complete_after_a_moment(ws: Workspace) -> None:
    path = put_request(ws)
    assert scan(ws, SETTLED_SECONDS - 0.5) == []
    (item,) = scan(ws, SETTLED_SECONDS)
    assert (item.kind, item.path) == ("request", path)


def test_an_unsigned_request_waits_for_its_signature(ws: Workspace) -> None:
    put_request(ws, signed=False)
    assert scan(ws, UNSIGNED_SECONDS - 0.5) == []
    assert [item.kind for item in scan(ws, UNSIGNED_SECONDS)] == ["request"]


def test_an_arrival_is_complete_with_its_owner(ws: Workspace) -> None:
    folder = put_arrival(ws, owner=None)
    assert scan(ws) == []
    (folder / "owner.json").write_text(OWNER)
    assert scan(ws, SETTLED_SECONDS - 0.5) == []
    (item,) = scan(ws, SETTLED_SECONDS)
    assert (item.kind, item.path) == ("arrival", folder)


@pytest.mark.parametrize("name", ["johanna.png", "johanna.yaml.sig", ".johanna.yaml", ".johanna.yaml.partial", "README"])
def test_other_files_beside_the_requests_are_passed_over(ws: Workspace, name: str) -> None:
    put_request(ws, name, signed=False)
    assert scan(ws) == []


def test_links_are_passed_over(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_bytes(b"request")
    (ws.inbox / "requests" / "link.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    put_arrival(ws).rename(tmp_path / "elsewhere")
    (ws.inbox / "arrivals" / "link").symlink_to(tmp_path / "elsewhere")
    assert scan(ws) == []


def test_a_name_tells_the_content_and_nothing_else(ws: Workspace) -> None:
    path = put_request(ws)
    name = only(ws).name
    path.rename(path.with_name("other.yaml"))
    assert only(ws).name == name == f"request-{sha256_digest(b'request')[:16]}"
    path.with_name("other.yaml").write_bytes(b"another")
    assert only(ws).name != name


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.png").write_bytes(b"another"),
        lambda folder: (folder / "a.png").rename(folder / "b.png"),
        lambda folder: (folder / "captions.csv").write_text("file,caption\n"),
        lambda folder: (folder / "owner.json").write_text(json.dumps({"owner_id": "ada"})),
    ],
    ids=["picture", "name", "captions", "owner"],
)
def test_an_arrivals_name_covers_its_files(ws: Workspace, change: Callable[[Path], object]) -> None:
    folder = put_arrival(ws)
    before = only(ws).name
    folder = folder.rename(folder.with_name("elsewhere"))
    assert only(ws).name == before
    change(folder)
    assert only(ws).name != before


def test_an_item_is_found_by_its_name(ws: Workspace) -> None:
    put_request(ws)
    put_arrival(ws)
    for item in scan(ws):
        assert find_item(ws, item.name, after(60)) == item
    assert find_item(ws, "request-0000000000000000", after(60)) is None


def test_an_owner_is_read(ws: Workspace) -> None:
    assert read_owner(put_arrival(ws)) == ("johanna", None)
    assert read_owner(put_arrival(ws, "second", '{"owner_id": "ada", "tier": 2}')) == ("ada", 2)
    assert read_owner(put_arrival(ws, "third", '{"owner_id": "ada", "tier": "opt-in"}')) == ("ada", "opt-in")
    assert read_owner(put_arrival(ws, "fourth", '{"owner_id": "ada"}')) == ("ada", None)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("johanna", r"owner\.json: not JSON"),
        ('["johanna"]', r"owner\.json: document: Input should be a valid dictionary"),
        ("{}", r"owner\.json: owner_id: Field required"),
        ('{"owner_id": ""}', r"owner\.json: owner_id: String should have at least 1 character"),
        ('{"owner_id": 7}', r"owner\.json: owner_id: Input should be a valid string"),
        ('{"owner_id": "johanna", "tier": "1"}', r"owner\.json: tier: must be a tier's name or a stage's number"),
        ('{"owner_id": "johanna", "tier": true}', r"owner\.json: tier: must be a tier's name or a stage's number"),
        ('{"owner_id": "johanna", "shard": 1}', r"owner\.json: shard: Extra inputs are not permitted"),
        (json.dumps({"owner_id": "j" * 10_000}), r"owner\.json: more than 10,000 bytes"),
    ],
)
def test_a_wrong_owner_file_gets_one_line_without_its_values(ws: Workspace, content: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem) as raised:
        read_owner(put_arrival(ws, owner=content))
    assert "johanna" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_last_outcome_of_a_content_stands(ws: Workspace) -> None:
    put_request(ws)
    item = only(ws)
    refused = record_outcome(ws, item, "refused", {"status": "refused", "reason": "unsigned"})
    assert json.loads(refused.read_text()) == {"item": item.name, "status": "refused", "reason": "unsigned"}
    done = record_outcome(ws, item, "done", {"status": "completed"})
    assert json.loads(done.read_text()) == {"item": item.name, "status": "completed"}
    assert not refused.exists()
    assert done.parent == ws.inbox / "done"


def test_a_removed_request_takes_its_signature_and_pictures_along(ws: Workspace, tmp_path: Path) -> None:
    put_request(ws)
    other = put_request(ws, "other.yaml", content=b"other", signed=False)
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"picture")
    for name in ("logo.png", "mine/a.png", "shared/a.png", "shared/b.png"):
        (ws.inbox / "requests" / name).parent.mkdir(exist_ok=True)
        (ws.inbox / "requests" / name).write_bytes(b"picture")
    item = next(found for found in scan(ws) if found.path != other)
    remove_request(item, ["logo.png", "mine/a.png", "shared/a.png", "gone.png", "../../../outside.png", "shared"])
    left = {path.relative_to(ws.inbox / "requests").as_posix() for path in (ws.inbox / "requests").rglob("*")}
    assert left == {"other.yaml", "shared", "shared/b.png"}
    assert outside.exists()
    remove_request(item, ["logo.png"])  # again, after a crash


def test_a_removed_arrival_is_gone(ws: Workspace) -> None:
    put_arrival(ws)
    remove_arrival(ws, only(ws))
    assert not [path for path in ws.inbox.rglob("*") if path.is_file()]


def test_a_removal_that_was_cut_short_is_no_arrival_and_is_finished_later(ws: Workspace) -> None:
    put_arrival(ws).rename(ws.inbox / ".leaving")
    assert scan(ws) == []
    create_inbox(ws)
    assert not (ws.inbox / ".leaving").exists()


def test_a_reopened_arrival_keeps_its_pictures_for_mending(ws: Workspace) -> None:
    folder = put_arrival(ws)
    reopen_arrival(only(ws))
    assert scan(ws) == []
    assert [path.name for path in folder.iterdir()] == ["a.png"]
    (folder / "owner.json").write_text(OWNER)
    assert only(ws).path == folder


def test_a_new_answer_takes_the_place_of_the_old_one(ws: Workspace) -> None:
    alone, bulk = ws.inbox / "done" / "request-0.json", ws.inbox / "done" / "request-1.json"
    alone.write_text(json.dumps({"item": "request-0", "request_id": "r-0", "status": "held", "holds": []}))
    bulk.write_text(json.dumps({"item": "request-1", "requests": [{"request_id": "r-1", "status": "held"}, {"request_id": "r-2"}]}))
    for request_id in ("r-0", "r-1", "r-3"):
        retell_outcome(ws, {"request_id": request_id, "status": "completed"})
    assert json.loads(alone.read_bytes()) == {"item": "request-0", "request_id": "r-0", "status": "completed"}
    assert json.loads(bulk.read_bytes())["requests"] == [{"request_id": "r-1", "status": "completed"}, {"request_id": "r-2"}]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (alone, bulk)] == [0o600, 0o600]
