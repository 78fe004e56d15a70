"""A learn flow that was cut short, or overtaken by a deletion, is in no deletion's way, and brings nothing back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tiny_workspace import DOMAIN, draw_picture, lethe, owners_of, signed_request

from cdm_core.errors import StateError, SuppressedError
from flows.commands import learn_arrival
from tasks.data.data_versions import is_up_to_date
from tasks.data.manifest_store import load_manifests
from tasks.ledger.store import Ledger
from tasks.models import learning
from tasks.requests import arrivals
from tasks.requests.arrivals import read_arrival
from tasks.workspace import Workspace

NEWCOMER = f"newcomer{DOMAIN}"


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the real one."""


def _cut(*arguments: object, **named: object) -> None:
    raise PowerCut


def _folder(path: Path) -> Path:
    path.mkdir()
    for index in range(3):
        (path / f"blue-thing_{index}.png").write_bytes(draw_picture(20, index))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "function"),
    [(learning, "store_arrival"), (arrivals, "commit_data"), (learning, "_record_stored")],
    ids=["before anything is written", "before the commit", "after the commit"],
)
def test_a_learn_that_was_killed_while_it_stored_keeps_no_request_waiting(
    copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, function: str
) -> None:
    folder = _folder(tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(module, function, _cut)
        with pytest.raises(PowerCut):
            lethe(copied, "learn", folder, "--owner", NEWCOMER)
    request = signed_request(copied, tmp_path, owner_ids=[owners_of(2, 1)[0].owner_id])
    assert lethe(copied, "submit", request).document["status"] == "completed"
    assert lethe(copied, "learn", folder, "--owner", NEWCOMER).document["status"] == "completed"
    other = signed_request(copied, tmp_path, owner_ids=[NEWCOMER])
    assert lethe(copied, "submit", other).document["status"] == "completed"
    assert is_up_to_date(copied)


@pytest.mark.slow
def test_a_learn_that_waited_for_the_deletion_of_its_pictures_stores_none(copied: Workspace, tmp_path: Path) -> None:
    owner = owners_of(1, 1)[0]
    folder = tmp_path / "mine"
    folder.mkdir()
    for index, picture in enumerate(owner.pictures):
        (folder / f"{index}.png").write_bytes(picture.png)
    arrival = read_arrival(copied, Ledger(copied), folder, owner.owner_id, None, datetime.now(UTC))
    assert lethe(copied, "submit", signed_request(copied, tmp_path, owner_ids=[owner.owner_id])).document["status"] == "completed"
    with pytest.raises(SuppressedError, match="pictures were erased on request and may not come back"):
        learn_arrival(copied, arrival, show_progress=False)
    listed = set().union(*(set(manifest["sample_id"]) for manifest in load_manifests(copied).values()))
    assert not listed & set(owner.sample_ids)
    request = signed_request(copied, tmp_path, owner_ids=[owners_of(0, 1)[0].owner_id])
    assert lethe(copied, "submit", request).document["status"] == "completed"


@pytest.mark.slow
def test_a_learn_that_cannot_be_finished_keeps_no_request_waiting(
    copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise StateError("out of order")

    folder = _folder(tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(learning, "save_composition", fail)
        assert lethe(copied, "learn", folder, "--owner", NEWCOMER).code == 1
        ran = lethe(copied, "submit", signed_request(copied, tmp_path, owner_ids=[owners_of(0, 1)[0].owner_id]))
    assert ran.document["status"] == "completed"
    assert "could not be finished" in ran.err
    assert "out of order" in ran.err
