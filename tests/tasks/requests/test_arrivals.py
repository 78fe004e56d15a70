"""An owner's folder is read and checked whole before anything is written, and what was erased on request stays out."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_workspace import png

from cdm_core.errors import InvalidInputError, SuppressedError
from cdm_core.sharding.partition import compute_owner_key
from tasks.data.data_versions import data_revision
from tasks.data.manifest_store import load_manifest
from tasks.data.workspace_init import create_workspace
from tasks.deletion.suppression import suppression_hash
from tasks.ledger.store import Ledger
from tasks.requests.arrivals import Arrival, read_arrival, store_arrival
from tasks.workspace import Workspace

SECRET = bytes(range(32))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def _empty_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace without a sample."""
    root = tmp_path_factory.mktemp("empty") / "ws"
    create_workspace(root, shards=2, stages=2, pictures=[], secret=SECRET, progress=lambda done, total: None)
    return root


@pytest.fixture
def ws(_empty_template: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(_empty_template, tmp_path / "ws")
    made = Workspace(tmp_path / "ws")
    made.keys.mkdir(parents=True, exist_ok=True)
    (made.keys / "owner-secret").write_bytes(SECRET.hex().encode())
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "arrival"
    made.mkdir()
    (made / "Grey_cat-one.png").write_bytes(png(10))
    (made / "b.PNG").write_bytes(png(20))
    (made / "notes.txt").write_text("not a picture")
    return made


def read(ws: Workspace, folder: Path, owner: str = "erin", tier: str | int | None = None) -> Arrival:
    return read_arrival(ws, Ledger(ws), folder, owner, tier, NOW)


def test_pictures_without_captions_get_the_words_of_their_names(ws: Workspace, folder: Path) -> None:
    arrival = read(ws, folder)
    assert {sample.png: sample.caption for sample in arrival.samples} == {png(10): "grey cat one", png(20): "b"}
    assert {sample.arrived_at for sample in arrival.samples} == {NOW}
    assert arrival.owner_key == compute_owner_key(SECRET, "erin")
    assert "erin" not in arrival.request_id


def test_captions_are_read_from_their_file(ws: Workspace, folder: Path) -> None:
    (folder / "captions.csv").write_text('\ufefffile,caption,note\nb.PNG,"a grey, dark\nthing",x\n', encoding="utf-8")
    arrival = read(ws, folder)
    assert {sample.png: sample.caption for sample in arrival.samples} == {png(10): "grey cat one", png(20): "a grey, dark\nthing"}


def test_the_tier_is_the_stage_and_leaves_the_shard(ws: Workspace, folder: Path) -> None:
    undeclared = read(ws, folder)
    assert [(read(ws, folder, tier=tier).shard, read(ws, folder, tier=tier).stage) for tier in (0, 1, "contract", "contested")] == [
        (undeclared.shard, 0),
        (undeclared.shard, 1),
        (undeclared.shard, 0),
        (undeclared.shard, 1),
    ]


def test_the_same_folder_is_the_same_arrival(ws: Workspace, folder: Path, tmp_path: Path) -> None:
    arrival = read(ws, folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert read(ws, tmp_path / "copy").request_id == arrival.request_id
    assert read(ws, folder, owner="fred").request_id != arrival.request_id
    (folder / "captions.csv").write_text("file,caption\nb.PNG,other\n")
    assert read(ws, folder).request_id != arrival.request_id


def test_an_arrival_is_stored_once_and_committed(ws: Workspace, folder: Path) -> None:
    arrival, before = read(ws, folder), data_revision(ws)
    num_new, revision = store_arrival(ws, arrival)
    assert num_new == 2
    assert revision != before
    manifest = load_manifest(ws, arrival.shard)
    assert set(manifest["owner_key"]) == {arrival.owner_key}
    assert set(manifest["sample_id"]) == {sample.sample_id for sample in arrival.samples}
    assert store_arrival(ws, arrival) == (0, revision)


def test_reading_changes_nothing(ws: Workspace, folder: Path) -> None:
    before = {path: path.read_bytes() for path in ws.manifests.iterdir() if path.is_file()}
    read(ws, folder)
    assert {path: path.read_bytes() for path in ws.manifests.iterdir() if path.is_file()} == before


def test_what_was_erased_on_request_may_not_come_back(ws: Workspace, folder: Path) -> None:
    erased = next(sample for sample in read(ws, folder).samples if sample.png == png(20))
    Ledger(ws).suppress([suppression_hash(ws, erased.sample_id)], NOW)
    for owner in ("erin", "somebody else"):
        with pytest.raises(SuppressedError, match=r"^1 of 2 pictures were erased on request and may not come back$"):
            read(ws, folder, owner=owner)


@pytest.mark.parametrize("owner", ["", "  "])
def test_an_owner_without_a_name_is_refused(ws: Workspace, folder: Path, owner: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^owner: must not be empty$"):
        read(ws, folder, owner=owner)


def test_a_folder_that_is_not_there_is_refused(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"none: no such folder$"):
        read(ws, tmp_path / "none")


def test_a_folder_without_pictures_is_refused(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InvalidInputError, match=r"no PNG or JPEG file in it$"):
        read(ws, tmp_path)


def test_a_damaged_picture_is_refused_by_name(ws: Workspace, folder: Path) -> None:
    (folder / "c.jpg").write_bytes(b"not a picture")
    with pytest.raises(InvalidInputError, match=r"^c\.jpg: not a readable PNG or JPEG picture$"):
        read(ws, folder)


def test_a_tier_that_is_no_stage_is_refused(ws: Workspace, folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"^tier: must be one of contract, opt-in, opt-out, contested, or a stage's number from"):
        read(ws, folder, tier="cold")
    with pytest.raises(InvalidInputError, match=r"^tier 2 is not between 0 and 1$"):
        read(ws, folder, tier=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,caption\nnone.png,x\n", "line 2: no such picture in the folder"),
        (b'file,caption\nb.PNG,"two\nlines"\n../b.PNG,x\n', "line 4: no such picture in the folder"),
        (b"file\nb.PNG\n", "needs the columns file and caption"),
        (b"", "needs the columns file and caption"),
        (b"file,caption\nb.PNG,\xff\n", "not UTF-8 at byte 19"),
        (b"file," + b"x" * 200_000 + b"\n", r"line 1: field larger than field limit \(131072\)"),
        (b"file,caption\nb.PNG," + b"x" * 200_000 + b"\n", r"line 2: field larger than field limit \(131072\)"),
    ],
    ids=["unknown file", "unknown file after a line break", "no caption", "empty", "not UTF-8", "an endless header", "an endless field"],
)
def test_bad_captions_are_refused_in_one_line(ws: Workspace, folder: Path, content: bytes, message: str) -> None:
    (folder / "captions.csv").write_bytes(content)
    with pytest.raises(InvalidInputError, match=rf"^captions\.csv: {message}$"):
        read(ws, folder)


def test_a_caption_too_long_is_refused(ws: Workspace, folder: Path) -> None:
    (folder / "captions.csv").write_text("file,caption\nb.PNG," + "x" * 5000 + "\n")
    with pytest.raises(InvalidInputError, match=r"^caption 'x{20}'…: longer than 4096 bytes$"):
        read(ws, folder)
