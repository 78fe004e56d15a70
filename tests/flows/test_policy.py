"""Plans, approvals, holds and clocks, as a user meets them: in a built workspace, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import jwt
import pytest
from built_workspace import Built, copy_workspace
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_workspace import DOMAIN, ISSUER, lethe, owners_of, set_parameters, signed_request
from workspace_snapshot import event_kinds, files_with_digest

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError, VerificationError
from cdm_core.evidence.approvals import verify_approval
from flows.policy import plan_guard
from tasks.clock import utc_now
from tasks.deletion import purging
from tasks.keys import load_registry
from tasks.ledger.store import Ledger
from tasks.plans.approving import approvals_folder, require_approvals
from tasks.plans.duplicates import load_choice
from tasks.requests.intake import receive_file
from tasks.workspace import Workspace

DPO, OWNER = "data_protection_officer", "model_owner"
LATER = "2999-01-01"


def make_key(ws: Workspace, folder: Path, name: str, *roles: str, seed: int) -> Path:
    """A registered person; the private key's file."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public, private = folder / f"{seed}.pem", folder / f"{seed}.private.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    options = [option for role in roles for option in ("--role", role)]
    assert lethe(ws, "keys", "add", name, "--public-key", public, *options).code == 0
    return private


def flipped(content: bytes, position: int, bits: int = 1) -> bytes:
    return content[:position] + bytes([content[position] ^ bits]) + content[position + 1 :]


@pytest.fixture(scope="module")
def two_rules(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy that asks for two approvals; tests of this module change nothing in it but keys, approvals and the ledger."""
    ws = copy_workspace(built.ws, tmp_path_factory.mktemp("policy") / "ws")
    set_parameters(ws, required=2)
    return ws


def test_two_roles_approve_and_the_request_is_carried_out(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, required=2)
    request, plan = signed_request(copied, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), tmp_path / "plan.json"
    document = lethe(copied, "plan", request, "--out", plan).document
    assert document["expected_quality_change"]["relative_change"] is None
    assert DOMAIN not in plan.read_text()
    assert "policy asks for 2 approvals" in lethe(copied, "submit", request).err
    first = make_key(copied, tmp_path, "Dora", DPO, seed=1)
    second = make_key(copied, tmp_path, "Otto", OWNER, DPO, seed=2)
    assert lethe(copied, "approve", plan, "--key", first).document["roles"] == [DPO]
    assert "1 of 2 approvals" in lethe(copied, "submit", request, "--plan", plan).err
    assert lethe(copied, "approve", plan, "--key", second).code == 0
    answer = lethe(copied, "submit", request, "--plan", plan).document
    assert answer["status"] == "completed"
    assert "plan_accepted" in event_kinds(copied, request.stem)


@pytest.fixture(scope="module")
def approved(two_rules: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A request and its plan, which two people approved."""
    folder = tmp_path_factory.mktemp("approved")
    request, plan = signed_request(two_rules, folder, owner_ids=[owners_of(2)[0].owner_id]), folder / "plan.json"
    lethe(two_rules, "plan", request, "--out", plan)
    for seed, role in ((11, DPO), (12, OWNER)):
        lethe(two_rules, "approve", plan, "--key", make_key(two_rules, folder, f"person {seed}", role, seed=seed))
    return request, plan


def test_no_byte_of_plan_or_approval_can_be_changed(two_rules: Workspace, approved: tuple[Path, Path]) -> None:
    """Every byte, with the functions that judge: a changed plan is one that nobody approved, a changed approval is none."""
    plan, registry = approved[1], load_registry(two_rules)
    content, paths = plan.read_bytes(), sorted(approvals_folder(plan).glob("*.json"))
    assert len(paths) == 2
    for path in paths:
        approval = path.read_bytes()
        verify_approval(approval, sha256_digest(content), registry, utc_now())
        for position in range(len(approval)):
            with pytest.raises(VerificationError) as caught:
                verify_approval(flipped(approval, position), sha256_digest(content), registry, utc_now())
            assert str(caught.value).isprintable()
        for position in range(len(content)):
            with pytest.raises(VerificationError, match="approves another plan"):
                verify_approval(approval, sha256_digest(flipped(content, position)), registry, utc_now())


@settings(deadline=None, max_examples=60)
@given(which=st.integers(0, 2), fraction=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_plan_or_approval_on_disk_is_refused(
    two_rules: Workspace, approved: tuple[Path, Path], which: int, fraction: float, bit: int
) -> None:
    plan = approved[1]
    assert len(require_approvals(two_rules, plan, plan.read_bytes(), [], utc_now())["approvers"]) == 2  # type: ignore[arg-type]
    path = (plan, *sorted(approvals_folder(plan).glob("*.json")))[which]
    content = path.read_bytes()
    path.write_bytes(flipped(content, int(fraction * len(content)), 1 << bit))
    try:
        with pytest.raises((VerificationError, RequestRefusedError)) as caught:
            require_approvals(two_rules, plan, plan.read_bytes(), [], utc_now())
    finally:
        path.write_bytes(content)
    assert str(caught.value).isprintable()


def test_approvals_stand_for_their_plan_and_a_plan_for_its_request_alone(
    two_rules: Workspace, approved: tuple[Path, Path], tmp_path: Path
) -> None:
    request, plan = approved
    other = tmp_path / "other.json"
    lethe(two_rules, "plan", request, "--out", other)
    shutil.copytree(approvals_folder(plan), approvals_folder(other))
    assert "approves another plan" in lethe(two_rules, "submit", request, "--plan", other).err
    another = signed_request(two_rules, tmp_path, owner_ids=[owners_of(2)[1].owner_id])
    assert lethe(two_rules, "submit", another, "--plan", plan).err == "lethe: the plan is of another request file\n"


def bulk_request(ws: Workspace, folder: Path, owners: dict[str, str]) -> Path:
    """A signed CSV of one request an owner, by request id."""
    path = folder / "bulk.csv"
    rows = [f"{request_id},{ISSUER},gdpr,2026-01-01T00:00:00Z,{owner}," for request_id, owner in owners.items()]
    path.write_text("\n".join(["request_id,issuer,regulation,submitted_at,owner_id,sample_id", *rows, ""]))
    assert lethe(ws, "sign", path, "--issuer", ISSUER).code == 0
    return path


@pytest.mark.slow
def test_a_bulk_file_is_carried_out_as_one_as_planned_and_approved(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, required=1)
    asking = [owners_of(2)[0], owners_of(0, 1)[0]]
    request = bulk_request(copied, tmp_path, {"b-0": "nobody", "b-1": asking[0].owner_id, "b-2": asking[1].owner_id})
    plan = tmp_path / "plan.json"
    planned = lethe(copied, "plan", request, "--out", plan).document
    assert [row.get("status") for row in planned["requests"]] == ["refused", None, None]
    written = json.loads(plan.read_bytes())
    assert written["together"]["samples"] == sum(len(owner.pictures) for owner in asking)
    assert written["together"]["cost"]["steps"] < written["together"]["cost"]["steps_full_build"]
    assert "policy asks for 1 approvals" in lethe(copied, "submit", request).err
    lethe(copied, "approve", plan, "--key", make_key(copied, tmp_path, "Dora", DPO, seed=1))
    # Another request waits; it isn't of the plan, so it isn't carried out with it.
    other = signed_request(copied, tmp_path, owner_ids=[owners_of(1)[0].owner_id])
    assert "policy asks for 1 approvals" in lethe(copied, "submit", other).err
    answers = {row["request_id"]: row for row in lethe(copied, "submit", request, "--plan", plan).document["requests"]}
    assert {name: row["status"] for name, row in answers.items()} == {"b-0": "refused", "b-1": "completed", "b-2": "completed"}
    assert answers["b-1"]["batch"] == answers["b-2"]["batch"]
    accepted = Ledger(copied).events(kind="plan_accepted")
    assert [event.request_id for event in accepted] == ["b-0", answers["b-1"]["batch"]]
    assert Ledger(copied).request(other.stem).status == "received"  # type: ignore[union-attr]
    assert lethe(copied, "submit", request, "--plan", plan).document["requests"] == list(answers.values())
    assert lethe(copied, "verify", copied.ledger / "ledger.sqlite").document["valid"] is True


def test_a_bulk_plan_is_refused_where_samples_are_held_or_nobody_is_named(copied: Workspace, tmp_path: Path) -> None:
    owner = owners_of(2)[0]
    lethe(copied, "hold", "add", "--sample", owner.sample_ids[0], "--ground", "research", "--until", LATER)
    request = bulk_request(copied, tmp_path, {"b-1": owner.owner_id, "b-2": owners_of(0, 1)[0].owner_id})
    plan = tmp_path / "plan.json"
    assert lethe(copied, "plan", request, "--out", plan).code == 0
    message = "plan.json: some of its requests name samples that are held; send these in a file of their own"
    assert lethe(copied, "submit", request, "--plan", plan).err == f"lethe: {message}\n"
    nobody = bulk_request(copied, tmp_path, {"b-3": "nobody", "b-4": "no one"})
    assert lethe(copied, "plan", nobody).err == "lethe: bulk.csv: none of its 2 requests names anything in this workspace\n"
    assert "names anything in this workspace" in lethe(copied, "plan", nobody, "--out", plan).err


def test_drift_is_named(copied: Workspace, tmp_path: Path) -> None:
    request, plan = signed_request(copied, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), tmp_path / "plan.json"
    lethe(copied, "plan", request, "--out", plan)
    set_parameters(copied, margin=4.0)
    err = lethe(copied, "submit", request, "--plan", plan).err
    assert "the workspace has drifted from the plan: settings, expected quality change" in err
    assert "stopped" not in event_kinds(copied, request.stem)


def test_who_signed_the_request_does_not_approve_it(two_rules: Workspace, tmp_path: Path) -> None:
    request, plan = signed_request(two_rules, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), tmp_path / "plan.json"
    lethe(two_rules, "plan", request, "--out", plan)
    for seed, name, role in ((21, ISSUER, DPO), (22, "Otto 22", OWNER)):
        lethe(two_rules, "approve", plan, "--key", make_key(two_rules, tmp_path, name, role, seed=seed))
    assert "1 of 2 approvals" in lethe(two_rules, "submit", request, "--plan", plan).err


def test_who_vouched_for_the_identity_does_not_approve_either(copied: Workspace, tmp_path: Path) -> None:
    """IAB's first party signs the identity token in the request."""
    set_parameters(copied, required=1)
    owner, second = owners_of(2)[0], int(utc_now().timestamp())
    publisher = make_key(copied, tmp_path, "publisher.example", DPO, "issuer", seed=41)
    vendor = make_key(copied, tmp_path, "vendor.example", "issuer", seed=42)
    lethe(copied, "identities", "add", owner.owner_id, "--email", "jo@example.com")
    subject = {"identifierValue": "jo@example.com", "identifierType": "email", "identifierFormat": "plaintext"}

    def sign(key: Path, **claims: object) -> str:
        return jwt.encode({"version": "1.0", "sub": subject, **claims}, load_pem_private_key(key.read_bytes(), None), algorithm="EdDSA")  # type: ignore[arg-type]

    inner = sign(publisher, jti="i-1", iss="publisher.example", iat=second - 60)
    request, plan = tmp_path / "request.jwt", tmp_path / "plan.json"
    request.write_text(sign(vendor, jti="r-1", iss="vendor.example", iat=second - 10, idJWT=inner))
    assert lethe(copied, "plan", request, "--out", plan).code == 0
    assert lethe(copied, "approve", plan, "--key", publisher).document["roles"] == [DPO]
    assert "0 of 1 approvals" in lethe(copied, "submit", request, "--plan", plan).err


def test_what_counts_is_the_plan_that_was_read(two_rules: Workspace, approved: tuple[Path, Path]) -> None:
    plan, now = approved[1], utc_now()
    with pytest.raises(VerificationError, match="approves another plan"):
        require_approvals(two_rules, plan, plan.read_bytes() + b" ", [], now)


def test_the_choice_that_was_checked_with_the_plan_is_the_one_that_is_kept(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, required=1)
    request, plan = signed_request(copied, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), tmp_path / "plan.json"
    assert "policy asks for 1 approvals" in lethe(copied, "submit", request, "--include-duplicates", "exact").err
    assert load_choice(copied, request.stem) == "none"
    lethe(copied, "plan", request, "--out", plan)
    assert "0 of 1 approvals" in lethe(copied, "submit", request, "--plan", plan, "--include-duplicates", "exact").err
    assert load_choice(copied, request.stem) == "none"
    lethe(copied, "approve", plan, "--key", make_key(copied, tmp_path, "Dora", DPO, seed=1))
    received = receive_file(copied, Ledger(copied), request, utc_now())
    for choice in ("exact", "none"):
        guard = plan_guard(copied, request, received, plan, choice)
        assert guard is not None
        assert guard(request.stem) is not None
        assert load_choice(copied, request.stem) == choice


def test_pictures_exchanged_after_the_receipt_are_not_carried_out_by_an_approved_plan(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, required=1)
    asking = owners_of(2)[0]
    (tmp_path / "mine.png").write_bytes(asking.pictures[0].png)
    request, plan = signed_request(copied, tmp_path, image_files=["mine.png"]), tmp_path / "plan.json"
    assert "policy asks for 1 approvals" in lethe(copied, "submit", request).err
    (tmp_path / "mine.png").write_bytes(asking.pictures[1].png)
    lethe(copied, "plan", request, "--out", plan)
    lethe(copied, "approve", plan, "--key", make_key(copied, tmp_path, "Dora", DPO, seed=1))
    err = lethe(copied, "submit", request, "--plan", plan).err
    assert err == f"lethe: request {request.stem}: image_files: not the pictures that it was received with\n"


def test_a_strangers_key_approves_nothing(two_rules: Workspace, tmp_path: Path) -> None:
    request, plan = signed_request(two_rules, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), tmp_path / "plan.json"
    lethe(two_rules, "plan", request, "--out", plan)
    private = make_key(two_rules, tmp_path, "nobody", "gardener", seed=31)
    assert "registered in none of the roles" in lethe(two_rules, "approve", plan, "--key", private).err


def test_an_older_registry_put_back_is_seen(copied: Workspace, tmp_path: Path) -> None:
    old = (copied.keys / "registry.json").read_bytes()
    make_key(copied, tmp_path, "Dora", DPO, seed=1)
    (copied.keys / "registry.json").write_bytes(old)
    request, plan = signed_request(copied, tmp_path, owner_ids=[owners_of(2)[0].owner_id]), tmp_path / "plan.json"
    lethe(copied, "plan", request, "--out", plan)
    assert "the ledger knows revision" in lethe(copied, "submit", request, "--plan", plan).err


@pytest.mark.slow
def test_a_held_owner_waits_and_is_forgotten_after_the_release(copied: Workspace, tmp_path: Path) -> None:
    owner = owners_of(2)[0]
    hold = lethe(copied, "hold", "add", "--owner", owner.owner_id, "--ground", "legal_claim", "--until", LATER, "--note", "secret").document
    request = signed_request(copied, tmp_path, owner_ids=[owner.owner_id])
    for _ in range(2):
        answer = lethe(copied, "submit", request).document
        assert (answer["status"], answer["held_samples"]) == ("held", len(owner.pictures))
    row = lethe(copied, "status", request.stem).document["requests"][0]
    assert (row["status"], row["overdue"], row["extended"]) == ("held", False, False)
    assert row["due_at"] is not None
    assert lethe(copied, "status", "--overdue").document["requests"] == []
    assert lethe(copied, "status", "--due-in", "7d").document["requests"] == []
    assert len(lethe(copied, "status", "--due-in", "40d").document["requests"]) == 1
    assert lethe(copied, "extend", request.stem, "--reason", "many requests").document["extended"] is True
    assert "was extended before" in lethe(copied, "extend", request.stem, "--reason", "again").err
    assert lethe(copied, "hold", "release", hold["hold_id"]).document["requeued"] == [request.stem]
    answer = lethe(copied, "submit", request).document
    assert answer["status"] == "completed"
    assert files_with_digest(copied.root, owner.sample_ids) == []
    assert "secret" not in (copied.ledger / "holds.json").read_text()


@pytest.mark.slow
def test_after_a_hold_a_request_is_planned_and_approved_anew(copied: Workspace, tmp_path: Path) -> None:
    set_parameters(copied, required=1)
    owner, key = owners_of(2)[0], make_key(copied, tmp_path, "Dora", DPO, seed=1)
    hold = lethe(copied, "hold", "add", "--owner", owner.owner_id, "--ground", "legal_claim", "--until", LATER).document
    request, old, new = signed_request(copied, tmp_path, owner_ids=[owner.owner_id]), tmp_path / "old.json", tmp_path / "new.json"
    lethe(copied, "plan", request, "--out", old)
    lethe(copied, "approve", old, "--key", key)
    assert lethe(copied, "submit", request, "--plan", old).document["status"] == "held"
    assert lethe(copied, "hold", "release", hold["hold_id"]).document["requeued"] == [request.stem]
    row = lethe(copied, "status", request.stem).document["requests"][0]
    assert (row["status"], row["overdue"]) == ("received", False)
    # Nothing carries it out by itself: neither another request, nor the plan that was approved while it was held.
    other = signed_request(copied, tmp_path, owner_ids=[owners_of(1)[0].owner_id])
    assert "policy asks for 1 approvals" in lethe(copied, "submit", other).err
    assert "policy asks for 1 approvals" in lethe(copied, "submit", request).err
    err = lethe(copied, "submit", request, "--plan", old).err
    assert "the workspace has drifted from the plan: requests" in err
    assert err.count("\n") == 1
    assert Ledger(copied).request(request.stem).status == "received"  # type: ignore[union-attr]
    lethe(copied, "plan", request, "--out", new)
    assert "0 of 1 approvals" in lethe(copied, "submit", request, "--plan", new).err
    lethe(copied, "approve", new, "--key", key)
    assert lethe(copied, "submit", request, "--plan", new).document["status"] == "completed"
    assert [event.body["plan"] for event in Ledger(copied).events(kind="plan_accepted", request_id=request.stem)] == [
        sha256_digest(path.read_bytes()) for path in (old, new)
    ]


@pytest.mark.slow
def test_a_held_sample_stays_and_the_rest_goes(copied: Workspace, tmp_path: Path) -> None:
    owner = owners_of(2)[0]
    held = owner.sample_ids[0]
    hold = lethe(copied, "hold", "add", "--sample", held, "--ground", "research", "--until", LATER).document
    request = signed_request(copied, tmp_path, owner_ids=[owner.owner_id])
    answer = lethe(copied, "submit", request).document
    assert (answer["status"], answer["held_samples"]) == ("held", 1)
    assert Ledger(copied).last("removed", request.stem) is not None
    assert lethe(copied, "submit", request).document == answer
    assert lethe(copied, "plan", request).document["held_samples"] == 1
    lethe(copied, "hold", "release", hold["hold_id"])
    second = lethe(copied, "submit", request).document
    assert second["status"] == "completed"
    assert second["audit_records"] != answer["audit_records"]
    for path in (*answer["audit_records"], *second["audit_records"]):
        assert lethe(None, "verify", path).document["valid"] is True
    stored = Ledger(copied).request(request.stem)
    assert stored is not None
    assert stored.content is None


@pytest.mark.slow
def test_of_two_requests_for_a_held_owner_the_second_is_refused_after_the_release_and_nobody_else_is(
    copied: Workspace, tmp_path: Path
) -> None:
    owner = owners_of(2)[0]
    hold = lethe(copied, "hold", "add", "--owner", owner.owner_id, "--ground", "research", "--until", LATER).document
    waiting = [signed_request(copied, tmp_path, name, owner_ids=[owner.owner_id]) for name in ("req-a", "req-b")]
    assert [lethe(copied, "submit", request).document["status"] for request in waiting] == ["held", "held"]
    assert lethe(copied, "hold", "release", hold["hold_id"]).document["requeued"] == ["req-a", "req-b"]
    other = signed_request(copied, tmp_path, "req-c", owner_ids=[f"nobody{DOMAIN}"])
    assert lethe(copied, "submit", other).err.splitlines()[-1] == "lethe: request req-c: no such owner or sample in this workspace"
    statuses = {stored.request_id: stored.status for stored in Ledger(copied).requests()}
    assert statuses.pop("req-a") in ("completed", "needs_review")
    assert statuses == {"req-b": "refused", "req-c": "refused"}
    assert lethe(copied, "submit", waiting[1]).err == "lethe: request req-b: no such owner or sample in this workspace\n"
    assert lethe(copied, "build").code == 0
    assert files_with_digest(copied.root, owner.sample_ids) == []


@pytest.mark.slow
def test_a_hold_that_is_released_while_the_flow_runs_lets_the_rest_go_at_the_next_submit(
    copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = owners_of(2)[0]
    hold = lethe(copied, "hold", "add", "--sample", owner.sample_ids[0], "--ground", "research", "--until", LATER).document
    request = signed_request(copied, tmp_path, owner_ids=[owner.owner_id])
    purge, requeued = purging.purge_request, []

    def release_and_purge(*arguments: Any) -> dict[str, int]:
        requeued.append(lethe(copied, "hold", "release", hold["hold_id"]).document["requeued"])
        return purge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(purging, "purge_request", release_and_purge)
        assert lethe(copied, "submit", request).document["status"] == "held"
    assert requeued == [[]]
    assert lethe(copied, "submit", request).document["status"] in ("completed", "needs_review")
    assert files_with_digest(copied.root, owner.sample_ids) == []


def test_the_list_of_holds_cannot_be_edited(copied: Workspace) -> None:
    lethe(copied, "hold", "add", "--sample", "0" * 64, "--ground", "other", "--until", LATER)
    path = copied.ledger / "holds.json"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(flipped(content, position))
        assert "hold" in lethe(copied, "hold", "list").err
    path.unlink()
    assert "aren't those that the ledger tells of" in lethe(copied, "hold", "list").err
