"""A choice of duplicates is checked before it's kept, and one that doesn't hold any more holds nobody else up."""

import json
from pathlib import Path

import pytest
from small_workspace import png, sample, source_pictures

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError
from cdm_core.sharding.partition import compute_owner_key
from tasks.clock import utc_now
from tasks.data.lookup import look_up
from tasks.data.samples import add_samples, remove_samples
from tasks.data.workspace_init import create_workspace
from tasks.keys import add_issuer, create_keys, sign_file
from tasks.ledger.store import Ledger
from tasks.plans.kept_files import keep_choice
from tasks.requests.batches import coalesce
from tasks.requests.choices import check_choice
from tasks.requests.intake import ReceivedFile, receive_file
from tasks.workspace import Workspace

SECRET = bytes(range(32))
BEN = compute_owner_key(SECRET, "ben")
COPY = sha256_digest(png(0))
"""Anna's first picture, which Ben has, too."""
WRONG = sha256_digest(png(200))


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "ws")
    made.keys.mkdir(parents=True)
    (made.keys / "owner-secret").write_text(SECRET.hex())
    create_keys(made)
    create_workspace(made.root, shards=2, stages=2, pictures=source_pictures(), secret=SECRET, progress=lambda done, total: None)
    add_issuer(made, "agency", None)
    add_samples(made, BEN, 1, 0, [sample(0)])
    return made


def receive(ws: Workspace, request_id: str, **subject: list[str]) -> ReceivedFile:
    path = ws.root.parent / f"{request_id}.json"
    document = {"schema": "lethe/deletion-request/v1", "request_id": request_id, "issuer": "agency", "regulation": "gdpr"}
    path.write_text(json.dumps({**document, "submitted_at": "2026-01-01T00:00:00Z", "subject": subject}))
    sign_file(ws, path, "agency")
    return receive_file(ws, Ledger(ws), path, utc_now())


def test_a_sample_that_is_no_duplicate_is_refused(ws: Workspace, tmp_path: Path) -> None:
    requests = receive(ws, "r-1", owner_ids=["anna"]).requests
    check_choice(ws, requests, tmp_path, (COPY,))
    with pytest.raises(InvalidInputError, match="1 of 2 samples are not duplicates that the plan lists"):
        check_choice(ws, requests, tmp_path, (COPY, WRONG))
    for choice in ("none", "exact"):
        check_choice(ws, requests, tmp_path, choice)


def test_a_request_that_was_received_is_judged_by_the_pictures_it_came_with(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    requests = receive(ws, "r-1", image_files=["a.png"]).requests
    (tmp_path / "a.png").unlink()
    with pytest.raises(InvalidInputError, match="1 of 1 samples are not duplicates"):
        check_choice(ws, requests, tmp_path, (WRONG,))


def test_what_is_under_way_or_will_be_refused_is_passed_over(ws: Workspace, tmp_path: Path) -> None:
    nobody, anna = receive(ws, "r-1", owner_ids=["nobody"]), receive(ws, "r-2", owner_ids=["anna"])
    check_choice(ws, nobody.requests, tmp_path, (WRONG,))
    Ledger(ws).set_status("r-2", "planned")
    check_choice(ws, anna.requests, tmp_path, (WRONG,))


def test_one_whose_choice_does_not_hold_holds_nobody_up(ws: Workspace) -> None:
    for request_id, owner in (("r-1", "anna"), ("r-2", "cleo"), ("r-3", "dora")):
        receive(ws, request_id, owner_ids=[owner])
    keep_choice(ws, "r-1", (sha256_digest(png(20)),))  # as an earlier release kept it: Cleo has that picture, and Anna hasn't
    batch = coalesce(ws, "r-2", utc_now())
    assert [event.request_id for event in Ledger(ws).events(kind="batched")] == ["r-2", "r-3"]
    assert coalesce(ws, "r-2", utc_now()) == batch
    with pytest.raises(InvalidInputError, match="1 of 1 samples are not duplicates"):
        coalesce(ws, "r-1", utc_now())
    keep_choice(ws, "r-1", "exact")
    coalesce(ws, "r-1", utc_now())
    assert Ledger(ws).last("batched", "r-1") is not None


def test_a_chosen_copy_that_was_erased_meanwhile_is_no_hindrance(ws: Workspace) -> None:
    receive(ws, "r-1", owner_ids=["anna"])
    keep_choice(ws, "r-1", (COPY,))
    copies = look_up(ws, sample_ids=[COPY])
    remove_samples(ws, copies[copies["owner_key"] == BEN])
    assert coalesce(ws, "r-1", utc_now()) == "r-1"
