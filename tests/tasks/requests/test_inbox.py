"""The inbox: what counts as complete, how items are named, and what is left of them."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError
from cdm_core.intake.requests import DeletionRequest
from tasks.clock import utc_now
from tasks.requests.inbox import (
    SETTLED_SECONDS,
    UNSIGNED_SECONDS,
    InboxItem,
    create_inbox,
    find_item,
    find_pictures,
    read_owner,
    record_outcome,
    remove_arrival,
    remove_request,
    reopen_arrival,
    retell_outcome,
    scan_inbox,
)
from tasks.requests.request_images import keep_images
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


def naming(*pictures: str) -> DeletionRequest:
    return DeletionRequest(
        request_id="r-1",
        issuer="officer",
        regulation="gdpr",
        submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
        owner_ids=(),
        sample_ids=(),
        image_files=pictures,
        captions_like=None,
        reason=None,
    )


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
    names = ("logo.png", "mine/a.png", "shared/a.png", "gone.png", "../../../outside.png", "shared")
    pictures = find_pictures(ws, item, [naming(*names)])
    remove_request(item, pictures)
    left = {path.relative_to(ws.inbox / "requests").as_posix() for path in (ws.inbox / "requests").rglob("*")}
    assert left == {"other.yaml", "shared", "shared/b.png"}
    assert outside.exists()
    remove_request(item, pictures)  # again, after a crash


def test_a_request_that_took_the_removed_ones_name_stays(ws: Workspace) -> None:
    path = put_request(ws)
    headers = path.with_name(path.name + ".headers.json")
    headers.write_bytes(b"{}")
    item = only(ws)
    path.write_bytes(b"another")
    headers.write_bytes(b'{"Received-At": ""}')
    remove_request(item)
    assert {each.name for each in path.parent.iterdir()} == {path.name, headers.name}  # the old signature isn't its own
    put_request(ws, content=b"another")
    path.with_name(path.name + ".sig").write_bytes(b"another's signature")
    remove_request(item)
    assert {each.name for each in path.parent.iterdir()} == {path.name, path.name + ".sig", headers.name}


def test_a_request_that_is_named_as_a_picture_stays(ws: Workspace) -> None:
    """Somebody else's, which may still wait for its signature, or be half written."""
    names = ("victim.json", "victim.JSON.sig", "victim.json.headers.json", ".victim.yaml.partial", "victim.zip")
    for name in names:
        put_request(ws, name, content=b"victim", signed=False)
    link = ws.inbox / "requests" / "link.png"
    link.symlink_to("victim.json")
    put_request(ws)
    item = next(found for found in scan(ws) if found.path.name == "johanna.yaml")
    remove_request(item, find_pictures(ws, item, [naming(*names, "link.png")]))
    assert {path.name for path in link.parent.iterdir()} == {*names, "link.png"}


@pytest.mark.parametrize("name", ["photo.png", "grün.png"])
def test_a_picture_that_two_requests_name_goes_with_the_last(ws: Workspace, name: str) -> None:
    picture = put_request(ws, name, content=b"picture", signed=False)
    first = put_request(ws, "first.json", content=json.dumps({"image_files": [name]}).encode())
    put_request(ws, "second.yaml", content=f"image_files: [{name}]".encode(), signed=False)
    for path in (first, first.with_name("second.yaml")):
        assert picture.exists()
        item = next(found for found in scan(ws) if found.path == path)
        remove_request(item, find_pictures(ws, item, [naming(name)]))
    assert list(picture.parent.iterdir()) == []


def test_a_picture_stays_beside_a_request_that_cannot_be_read(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = put_request(ws, "a.png", content=b"picture", signed=False)
    put_request(ws)
    put_request(ws, "other.yaml", content=b"other", signed=False)
    item = next(found for found in scan(ws) if found.path.name == "johanna.yaml")
    pictures, open_file = find_pictures(ws, item, [naming("a.png")]), Path.open

    def refuse(path: Path, *arguments: Any) -> Any:
        if path.name == "other.yaml":
            raise PermissionError(13, "Permission denied")  # root, who runs tests at times, may read anything
        return open_file(path, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    remove_request(item, pictures)
    assert picture.exists()


def test_a_picture_that_took_the_place_of_the_one_that_was_taken_in_stays(ws: Workspace) -> None:
    picture = put_request(ws, "a.png", content=b"picture", signed=False)
    put_request(ws)
    item, request = only(ws), naming("a.png")
    pictures = find_pictures(ws, item, [request])
    picture.write_bytes(b"another")
    remove_request(item, pictures)
    assert picture.exists()

    put_request(ws)
    item = only(ws)
    picture.write_bytes(b"picture")
    keep_images(ws, request, picture.parent)
    picture.write_bytes(b"another")  # before the flow goes on after a crash
    remove_request(item, find_pictures(ws, item, [request]))
    assert picture.exists()
    picture.write_bytes(b"picture")
    put_request(ws)
    remove_request(only(ws), find_pictures(ws, item, [request]))
    assert not picture.exists()


def test_a_removed_arrival_is_gone(ws: Workspace) -> None:
    put_arrival(ws)
    remove_arrival(ws, only(ws))
    assert not [path for path in ws.inbox.rglob("*") if path.is_file()]


def test_an_arrival_that_was_added_to_meanwhile_is_another_one_and_stays(ws: Workspace) -> None:
    folder = put_arrival(ws)
    item = only(ws)
    (folder / "b.png").write_bytes(b"a picture that was not seen")
    remove_arrival(ws, item)
    assert only(ws).name != item.name
    remove_arrival(ws, only(ws))
    assert scan(ws) == []


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
