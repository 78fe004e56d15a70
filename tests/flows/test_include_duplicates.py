"""Duplicates under other owners: listed, chosen, erased, refused ever after, and noticed when a backup brings them back."""

import shutil
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tiny_workspace import DOMAIN, lethe, owners_of, signed_request

from cdm_core.sharding.manifests import find_samples
from tasks.data.lookup import look_up
from tasks.data.manifest_store import load_manifests
from tasks.ledger.store import Ledger
from tasks.plans.duplicates import load_choice
from tasks.workspace import Workspace


def test_a_mistyped_choice_changes_nothing(copied: Workspace, tmp_path: Path) -> None:
    request, before = signed_request(copied, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), len(Ledger(copied).events())
    ran = lethe(copied, "submit", request, "--include-duplicates", "0" * 64)
    assert (ran.code, ran.err) == (1, "lethe: include-duplicates: 1 of 1 samples are not duplicates that the plan lists\n")
    assert (len(Ledger(copied).events()), load_choice(copied, request.stem)) == (before, "none")


@pytest.mark.slow
def test_a_chosen_duplicate_goes_with_the_owner_and_stays_away(copied: Workspace, tmp_path: Path) -> None:
    owner = owners_of(0, 1)[0]
    png, sample_id = owner.pictures[0].png, owner.sample_ids[0]
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "same.png").write_bytes(png)
    assert lethe(copied, "learn", folder, "--owner", f"copier{DOMAIN}", "--tier", "1").document["status"] == "completed"
    shutil.copytree(copied.manifests, tmp_path / "backup")

    request = signed_request(copied, tmp_path / "requests", owner_ids=[owner.owner_id])
    plan = lethe(copied, "plan", request).document
    assert (plan["samples"], plan["duplicates_included"]) == (len(owner.sample_ids), 0)
    assert [duplicate["sample_id"] for duplicate in plan["duplicates"]["exact"]] == [sample_id]
    assert all(duplicate["owner_key"] != owner.key for duplicate in plan["duplicates"]["near"])
    by_id = lethe(copied, "plan", request, "--include-duplicates", sample_id).document
    assert by_id["samples"] == len(owner.sample_ids) + 1
    refused = lethe(copied, "plan", request, "--include-duplicates", "0" * 64)
    assert (refused.code, refused.out) == (1, "")
    assert "are not duplicates that the plan lists" in refused.err

    assert lethe(copied, "submit", request, "--include-duplicates", "exact").document["status"] == "completed"
    assert look_up(copied, sample_ids=[sample_id]).empty
    assert find_samples(load_manifests(copied), owner_keys=[owner.key]).empty

    image, sink = Image.open(BytesIO(png)).convert("RGB"), BytesIO()
    image.resize((64, 64), Image.Resampling.BICUBIC).save(sink, "PNG")
    (folder / "same.png").write_bytes(sink.getvalue())
    again = lethe(copied, "learn", folder, "--owner", f"other{DOMAIN}")
    assert again.code == 1
    assert "erased on request" in again.err

    shutil.copytree(tmp_path / "backup", copied.manifests, dirs_exist_ok=True)
    restored = lethe(copied, "build")
    assert restored.code == 1
    assert "samples were erased on request and are back" in restored.err
