"""Foreign forms from end to end: submitted, carried out, answered in their own words; and what may not block a genuine request."""

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from built_workspace import Built, copy_workspace
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tiny_workspace import DOMAIN, ISSUER, OWNERS, lethe, owners_of, signed_request, write_request
from workspace_snapshot import flip_byte

from cdm_core.intake.encodings import compute_drop_hash, standardise_phone
from tasks.clock import utc_now
from tasks.ledger.store import Ledger
from tasks.requests.intake import headers_file
from tasks.workspace import Workspace

AGENT = "agent-7"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
EMAIL = "johndoe@example.com"
PHONE = "+1(415)555-9317"
PHONE_HASH = "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="


@pytest.fixture(scope="module")
def ws(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy for this module, that knows an agent, and an owner as senders know them."""
    folder = tmp_path_factory.mktemp("intakes")
    ws = copy_workspace(built.ws, folder / "ws")
    (folder / "agent.pem").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    lethe(ws, "keys", "add-issuer", AGENT, "--public-key", folder / "agent.pem")
    assert lethe(ws, "identities", "add", owners_of(1)[0].owner_id, "--email", EMAIL, "--customer-id", "c-1").document == {
        "added": 2,
        "given": 2,
    }
    return ws


def drp_file(folder: Path, **changes: object) -> Path:
    now = utc_now()
    message = {
        "agent-id": AGENT,
        "business-id": "lethe.example",
        "issued-at": (now - timedelta(seconds=1)).isoformat(),
        "expires-at": (now + timedelta(minutes=10)).isoformat(),
        "agent-request-id": "foo",
        "drp.version": "1.0",
        "exercise": "deletion",
        "regime": "ccpa",
        "email": EMAIL,
        "email_verified": True,
    } | changes
    text = json.dumps(message).encode()
    path = folder / "message.drp"
    path.write_bytes(base64.b64encode(KEY.sign(text) + text))
    return path


def signed(ws: Workspace, path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    assert lethe(ws, "sign", path, "--issuer", ISSUER).code == 0
    return path


def opendsr(**changes: object) -> bytes:
    document: Mapping[str, object] = {
        "regulation": "gdpr",
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "submitted_time": "2018-10-02T15:00:00Z",
        "subject_identities": [{"identity_type": "email", "identity_value": "nobody@example.com", "identity_format": "raw"}],
    }
    return json.dumps({**document, **changes}).encode()


def test_drp_from_the_message_to_fulfilled(ws: Workspace, tmp_path: Path) -> None:
    path, owner = drp_file(tmp_path), owners_of(1)[0]
    answer = lethe(ws, "submit", path).document
    assert answer["status"] in ("completed", "needs_review")
    told = lethe(ws, "status", "foo", "--as", "drp").document
    assert told["agent_request_id"] == told["request_id"] == "foo"
    assert told["status"] == "fulfilled"
    assert told["expected_by"] == lethe(ws, "status", "foo").document["requests"][0]["due_at"].replace("+00:00", "Z")
    assert lethe(ws, "submit", path).document == answer
    assert answer["purged"]["identities"] > 0
    assert owner.key not in (ws.keys / "identities.json").read_text()
    ran = lethe(ws, "status", "foo", "--as", "opendsr")
    assert ran.err == "lethe: foo: came as drp, so there is no answer as opendsr\n"


def drop_file(ws: Workspace, folder: Path, **phones: str) -> Path:
    """A signed archive of phone numbers by their work items."""
    rows = [f"{item.replace('_', '-')},{compute_drop_hash(standardise_phone(phone))}" for item, phone in phones.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("20260801_42_Phone.csv", "\n".join(["ID,Hash", *rows, ""]))
    return signed(ws, folder / "download.zip", buffer.getvalue())


@pytest.mark.slow
def test_drop_from_the_archive_to_the_upload(built: Built, tmp_path: Path) -> None:
    ws = copy_workspace(built.ws, tmp_path / "ws")
    phones = {f"w_{number}": f"+1 415 555 000{number}" for number in range(1, 5)} | {"w_5": PHONE}
    wholly, (partly, gone), shared = owners_of(1)[0], owners_of(2), owners_of(0)[:2]
    for owner, item in [(wholly, "w_1"), (partly, "w_2"), *((owner, "w_3") for owner in shared), (gone, "w_5")]:
        lethe(ws, "identities", "add", owner.owner_id, "--phone", phones[item])
    until = ["--ground", "legal_claim", "--until", "2999-01-01"]
    whole = lethe(ws, "hold", "add", "--owner", wholly.owner_id, *until).document["hold_id"]
    part = lethe(ws, "hold", "add", "--sample", partly.sample_ids[0], *until).document["hold_id"]

    only_held = lethe(ws, "submit", drop_file(ws, tmp_path, w_1=phones["w_1"], w_4=phones["w_4"])).document
    assert only_held["status"] == "held"
    assert json.loads(lethe(ws, "status", only_held["request_id"], "--as", "drop").out) == "ID,Status\nw-1,2\nw-4,5\n"

    path = drop_file(ws, tmp_path, **phones)
    with zipfile.ZipFile(path) as archive:
        assert f"w-5,{PHONE_HASH}" in archive.read("20260801_42_Phone.csv").decode()
    answer = lethe(ws, "submit", path, "--format", "auto").document
    assert answer["request_id"].startswith("drop-")
    told = lethe(ws, "status", answer["request_id"], "--as", "drop")
    assert (answer["status"], json.loads(told.out)) == ("held", "ID,Status\nw-1,2\nw-2,3\nw-3,4\nw-4,5\nw-5,3\n")
    assert lethe(ws, "hold", "release", part).document["requeued"] == [answer["request_id"]]
    assert "still received" in lethe(ws, "status", answer["request_id"], "--as", "drop").err
    Ledger(ws).set_status(answer["request_id"], "held")  # as it is again when another hold has come meanwhile
    assert json.loads(lethe(ws, "status", answer["request_id"], "--as", "drop").out) == json.loads(told.out)
    assert set(lethe(ws, "hold", "release", whole).document["requeued"]) == {only_held["request_id"], answer["request_id"]}


@pytest.mark.slow
def test_drop_is_told_deleted_when_the_hold_has_ended(ws: Workspace, tmp_path: Path) -> None:
    owner = owners_of(0)[2]
    lethe(ws, "identities", "add", owner.owner_id, "--phone", "+1 415 555 0009")
    hold = lethe(ws, "hold", "add", "--owner", owner.owner_id, "--ground", "research", "--until", "2999-01-01").document["hold_id"]
    path = drop_file(ws, tmp_path, w_9="+1 415 555 0009")
    request_id = lethe(ws, "submit", path).document["request_id"]
    assert json.loads(lethe(ws, "status", request_id, "--as", "drop").out) == "ID,Status\nw-9,2\n"
    lethe(ws, "hold", "release", hold)
    lethe(ws, "submit", path)
    assert json.loads(lethe(ws, "status", request_id, "--as", "drop").out) == "ID,Status\nw-9,3\n"


def test_an_unknown_subject_is_refused_in_the_senders_words(ws: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_bytes(opendsr())
    signature = base64.b64encode(KEY.sign(path.read_bytes())).decode()
    headers_file(path).write_text(json.dumps({"X-OpenDSR-Signature": signature, "X-OpenDSR-Processor-Domain": "lethe.example"}))
    ran = lethe(ws, "submit", path)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    told = lethe(ws, "status", "a7551968-d5d6-44b2-9831-815ac9017798", "--as", "opendsr").document
    assert told["request_status"] == "cancelled"


def test_two_issuers_may_use_one_id(ws: Workspace, tmp_path: Path) -> None:
    first = signed_request(ws, tmp_path, "shared-id", owner_ids=[f"nobody{DOMAIN}"])
    assert lethe(ws, "submit", first).code == 1
    second = drp_file(tmp_path, **{"agent-request-id": "shared-id", "email": "nobody@example.com"})
    assert "no such owner or sample" in lethe(ws, "submit", second).err
    rows = lethe(ws, "status", "shared-id").document["requests"]
    assert [row["request_id"].partition("@")[0] for row in rows] == ["shared-id", "shared-id"]
    told = lethe(ws, "status", "shared-id", "--as", "drp").document
    assert (told["agent_request_id"], told["status"], told["reason"]) == ("shared-id", "denied", "no_match")
    other = drp_file(tmp_path, **{"agent-request-id": "shared-id", "email": "other@example.com"})
    assert "already taken by another request body" in lethe(ws, "submit", other).err


def test_an_expired_message_is_refused_unless_a_gateway_had_it_in_time(ws: Workspace, tmp_path: Path) -> None:
    now = utc_now()
    times = {"issued-at": (now - timedelta(hours=2)).isoformat(), "expires-at": (now - timedelta(hours=1)).isoformat()}
    path = drp_file(tmp_path, **times, **{"agent-request-id": "late", "email": "nobody@example.com"})
    assert "expires-at: the request had expired" in lethe(ws, "submit", path).err
    event = Ledger(ws).events()[-1]
    assert (event.kind, event.request_id) == ("refused", None)
    assert (event.body["reason"], event.body["sender_reason"]) == ("expired", "DRP: expired")
    headers_file(path).write_text(json.dumps({"Received-At": (now - timedelta(minutes=90)).isoformat()}))
    assert "no such owner or sample" in lethe(ws, "submit", path).err
    headers_file(path).unlink()
    assert "no such owner or sample" in lethe(ws, "submit", path).err  # known: judged as of its first receipt


def test_an_unverified_duplicate_blocks_nothing(ws: Workspace, tmp_path: Path) -> None:
    forged = write_request(tmp_path / "forged", "blocked", owner_ids=[OWNERS[0].owner_id])
    forged.with_name(f"{forged.name}.sig").write_bytes(base64.b64encode(Ed25519PrivateKey.generate().sign(forged.read_bytes())))
    assert "fits no registered issuer" in lethe(ws, "submit", forged).err
    genuine = signed_request(ws, tmp_path / "genuine", "blocked", owner_ids=[f"nobody{DOMAIN}"])
    assert "no such owner or sample" in lethe(ws, "submit", genuine).err


def test_a_shared_identifier_deletes_nothing(ws: Workspace, tmp_path: Path) -> None:
    for owner in owners_of(0)[:2]:
        lethe(ws, "identities", "add", owner.owner_id, "--email", "family@example.com")
    path = drp_file(tmp_path, **{"agent-request-id": "family", "email": "family@example.com"})
    assert "belongs to several owners" in lethe(ws, "submit", path).err
    told = lethe(ws, "status", "family", "--as", "drp").document
    assert (told["status"], told["reason"]) == ("denied", "insuf_verification")


def test_a_changed_archive_and_bad_headers_are_refused(ws: Workspace, tmp_path: Path) -> None:
    path = drp_file(tmp_path)
    flip_byte(path)
    assert lethe(ws, "submit", path).code == 1
    path = drp_file(tmp_path)
    headers_file(path).write_text("[]")
    assert "must be an object of texts" in lethe(ws, "submit", path).err


def test_status_as_needs_one_id(ws: Workspace) -> None:
    assert lethe(ws, "status", "--as", "drp").code == 2
    assert lethe(ws, "status", "nothing", "--as", "drp").err == "lethe: nothing: no such request\n"
