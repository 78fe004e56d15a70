import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cdm_core.errors import RequestRefusedError, StateError
from cdm_core.intake.requests import DeletionRequest
from tasks.requests.request_images import (
    MAX_IMAGE_BYTES,
    find_image_files,
    images_folder,
    keep_images,
    require_kept_images,
    with_kept_images,
)
from tasks.workspace import Workspace


def request(*files: str, request_id: str = "r-1") -> DeletionRequest:
    return DeletionRequest(
        request_id=request_id,
        issuer="officer",
        regulation="gdpr",
        submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
        owner_ids=(),
        sample_ids=(),
        image_files=files,
        captions_like=None,
        reason=None,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A request's folder with two pictures, and a secret beside it."""
    made = tmp_path / "request"
    (made / "logos").mkdir(parents=True)
    (made / "a.png").write_bytes(b"picture a")
    (made / "logos" / "b.png").write_bytes(b"picture b")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return made


def test_named_pictures_are_read(folder: Path) -> None:
    assert find_image_files(request("a.png", "logos/b.png"), folder) == {"a.png": b"picture a", "logos/b.png": b"picture b"}
    assert find_image_files(request(), folder) == {}


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to("logos/b.png")
    assert find_image_files(request("link.png"), folder) == {"link.png": b"picture b"}


def test_pictures_are_kept_privately_under_a_name_that_tells_nothing(folder: Path, tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "ws")
    keep_images(ws, request("a.png", "logos/b.png"), folder)
    kept = images_folder(ws, "r-1")
    assert kept.is_relative_to(ws.ledger)
    assert "r-1" not in str(kept.relative_to(ws.root))
    found = find_image_files(with_kept_images(ws, request("a.png", "logos/b.png")), kept)
    assert list(found.values()) == [b"picture a", b"picture b"]
    assert not [path for path in kept.rglob("*") if "a.png" in path.name or "logos" in path.name]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.rglob("*") if path.is_file()} == {0o600}
    assert kept != images_folder(ws, "r-2")


@pytest.mark.parametrize("name", ["../secret.png", "logos/../../secret.png"])
def test_a_way_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(RequestRefusedError, match=r"^r-1: image_files\.0: leads out of the request's folder$") as refused:
        find_image_files(request(name), folder)
    assert refused.value.reason == "path_escape"


def test_an_absolute_path_and_a_link_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    for name in (str(tmp_path / "secret.png"), "link.png", "up/secret.png"):
        with pytest.raises(RequestRefusedError, match=r"leads out of the request's folder$"):
            find_image_files(request(name), folder)


@pytest.mark.parametrize("name", ["none.png", "logos", "a.png/b.png"])
def test_a_file_that_is_not_there_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(RequestRefusedError, match=r"^r-1: image_files\.0: no such file$") as refused:
        find_image_files(request(name), folder)
    assert refused.value.reason == "image_missing"


def test_a_name_too_long_and_a_link_to_itself_are_refused_in_one_line(folder: Path) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    for name in ("x" * 3000, "loop.png"):
        with pytest.raises(RequestRefusedError, match=r"^r-1: image_files\.0: can't be read$") as refused:
            find_image_files(request(name), folder)
        assert refused.value.reason == "image_missing"


def test_a_file_too_large_is_refused_unread(folder: Path) -> None:
    with (folder / "large.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(RequestRefusedError, match=r"^r-1: image_files\.0: over 20,000,000 bytes$") as refused:
        find_image_files(request("large.png"), folder)
    assert refused.value.reason == "too_large"


def test_one_bad_file_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "ws")
    with pytest.raises(RequestRefusedError, match="no such file"):
        keep_images(ws, request("a.png", "none.png"), folder)
    assert not images_folder(ws, "r-1").exists()


def test_the_place_that_a_message_names_is_the_one_in_the_request(folder: Path) -> None:
    with pytest.raises(RequestRefusedError, match=r"^r-1: image_files\.2: no such file$"):
        find_image_files(request("a.png", "a.png", "anna@example.com.png", "logos/b.png"), folder)


def test_names_as_long_as_a_file_system_takes_are_kept(folder: Path, tmp_path: Path) -> None:
    ws, name = Workspace(tmp_path / "ws"), "p" * 251 + ".png"
    (folder / name).write_bytes(b"picture p")
    keep_images(ws, request(name), folder)
    kept = with_kept_images(ws, request(name))
    assert list(find_image_files(kept, images_folder(ws, "r-1")).values()) == [b"picture p"]


def test_pictures_whose_names_would_be_in_each_others_way_are_kept(folder: Path, tmp_path: Path) -> None:
    ws, both = Workspace(tmp_path / "ws"), request(".a.png.partial", "a.png")
    (folder / ".a.png.partial").write_bytes(b"picture partial")
    keep_images(ws, both, folder)
    kept = find_image_files(with_kept_images(ws, both), images_folder(ws, "r-1"))
    assert list(kept.values()) == [b"picture partial", b"picture a"]


def test_requests_that_name_a_picture_alike_keep_each_its_own(folder: Path, tmp_path: Path) -> None:
    ws, first, second = Workspace(tmp_path / "ws"), request("a.png"), request("a.png", request_id="r-2")
    keep_images(ws, first, folder)
    (folder / "a.png").write_bytes(b"another picture a")
    keep_images(ws, second, folder)
    for each, content in ((first, b"picture a"), (second, b"another picture a")):
        kept = find_image_files(with_kept_images(ws, each), images_folder(ws, each.request_id))
        assert list(kept.values()) == [content]


def test_what_an_earlier_release_kept_by_name_is_found(folder: Path, tmp_path: Path) -> None:
    ws, kept = Workspace(tmp_path / "ws"), images_folder(Workspace(tmp_path / "ws"), "r-1")
    (kept / "logos").mkdir(parents=True)
    (kept / "logos" / "b.png").write_bytes(b"picture b")
    assert find_image_files(with_kept_images(ws, request("logos/b.png")), kept) == {"logos/b.png": b"picture b"}


def test_pictures_that_were_exchanged_since_the_receipt_are_noticed(folder: Path, tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "ws")
    keep_images(ws, request("a.png"), folder)
    require_kept_images(ws, request("a.png"), folder)
    (folder / "a.png").write_bytes(b"another picture a")
    with pytest.raises(StateError, match=r"^request r-1: image_files: not the pictures that it was received with$"):
        require_kept_images(ws, request("a.png"), folder)
