"""Taking requests in: keys of every kind, who is judged at which time, ids, repeats, and what is recorded of a refusal."""

import base64
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cdm_core.errors import InvalidInputError, RequestRefusedError, VerificationError
from flows.receipts import run_verify
from tasks.clock import utc_now
from tasks.deletion.forgetting import find_request
from tasks.keys import add_issuer, add_key, create_keys, load_registry, revoke_key, sign_file
from tasks.ledger.store import Ledger
from tasks.requests.intake import headers_file, receive_file
from tasks.workspace import Workspace

PARAMETERS = Path(__file__).resolve().parents[3] / "params.yaml"

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
AGENT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HOUR = timedelta(hours=1)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws")
    create_keys(ws)
    (ws.root / "params.yaml").write_bytes(PARAMETERS.read_bytes())
    for name, key in (("controller", RSA_KEY), ("publisher", EC_KEY), ("agent-7", AGENT_KEY)):
        (tmp_path / f"{name}.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))  # type: ignore[attr-defined]
        add_issuer(ws, name, tmp_path / f"{name}.pem")
    return ws


def keyid(ws: Workspace, name: str) -> str:
    return next(entry.keyid for entry in load_registry(ws).entries if entry.name == name)


def opendsr(folder: Path, **headers: str) -> Path:
    """As a gateway leaves it: the body, and the headers with an RSA signature."""
    body = {
        "regulation": "gdpr",
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "submitted_time": "2018-10-02T15:00:00Z",
        "subject_identities": [{"identity_type": "email", "identity_value": "johndoe@example.com", "identity_format": "raw"}],
    }
    path = folder / "request.json"
    path.write_bytes(json.dumps(body).encode())
    signature = base64.b64encode(RSA_KEY.sign(path.read_bytes(), PKCS1v15(), SHA256())).decode()
    headers_file(path).write_text(json.dumps({"X-OpenDSR-Signature": signature, "X-OpenDSR-Processor-Domain": "lethe.example", **headers}))
    return path


def drp(folder: Path, **changes: object) -> Path:
    now = utc_now()
    message = {
        "agent-id": "agent-7",
        "business-id": "lethe.example",
        "issued-at": (now - HOUR / 60).isoformat(),
        "expires-at": (now + HOUR / 6).isoformat(),
        "agent-request-id": "foo",
        "drp.version": "1.0",
        "exercise": "deletion",
        "email": "johndoe@example.com",
        "email_verified": True,
    } | changes
    text = json.dumps(message).encode()
    path = folder / "message.drp"
    path.write_bytes(base64.b64encode(AGENT_KEY.sign(text) + text))
    return path


def iab(folder: Path) -> Path:
    """An identity token of the 1st party, ES256, in a request token of the requester, RS256."""
    second = int(utc_now().timestamp())
    subject = {"identifierValue": "c-1", "identifierType": "customer_id", "identifierFormat": "plaintext"}
    claims = {"version": "1.0", "jti": "t-1", "sub": subject}
    inner = jwt.encode({**claims, "iss": "publisher", "iat": second - 60}, EC_KEY, algorithm="ES256")
    path = folder / "request.jwt"
    outer = {**claims, "iss": "controller", "iat": second - 10, "idJWT": inner}
    path.write_text(jwt.encode(outer, RSA_KEY, algorithm="RS256"))
    return path


def refuse(ws: Workspace, path: Path) -> tuple[str, str]:
    """(reason, message), after the one event that says it was checked."""
    before = len(Ledger(ws).events())
    with pytest.raises(RequestRefusedError) as caught:
        receive_file(ws, Ledger(ws), path, utc_now())
    (event,) = Ledger(ws).events()[before:]
    assert (event.kind, event.request_id, event.body["reason"]) == ("refused", None, caught.value.reason)
    if "sender_reason" in event.body:
        assert str(caught.value).endswith(f"[{event.body['sender_reason']}]")
    assert str(caught.value).isprintable()
    return caught.value.reason, str(caught.value)


def test_an_opendsr_body_signed_by_rsa_in_a_gateways_header(ws: Workspace, tmp_path: Path) -> None:
    received = receive_file(ws, Ledger(ws), opendsr(tmp_path), utc_now())
    assert (received.issuer.issuer, received.issuer.keyid) == ("controller", keyid(ws, "controller"))
    assert received.format == "opendsr"


def test_an_iab_pair_signed_by_rsa_and_ecdsa(ws: Workspace, tmp_path: Path) -> None:
    received = receive_file(ws, Ledger(ws), iab(tmp_path), utc_now())
    assert (received.issuer.issuer, received.format) == ("controller", "iab")


@pytest.mark.parametrize("name", ["controller", "publisher"])
def test_an_iab_pair_needs_both_keys_to_count(ws: Workspace, tmp_path: Path, name: str) -> None:
    revoke_key(ws, keyid(ws, name), since=utc_now(), reason="stolen")
    reason, message = refuse(ws, iab(tmp_path))
    assert reason == "key_not_valid"
    assert f"the key that signed, {keyid(ws, name)[:12]}, was revoked since" in message
    assert message.endswith("[IAB: raResultCode 2]")
    assert ("idJWT: " in message) is (name == "publisher")


def test_a_first_partys_key_that_does_not_count_yet_is_refused(ws: Workspace, tmp_path: Path) -> None:
    start = utc_now() + HOUR
    add_key(ws, "publisher", tmp_path / "publisher.pem", ["issuer"], valid_from=start, valid_until=None)
    reason, message = refuse(ws, iab(tmp_path))
    assert (reason, "is valid only from" in message) == ("key_not_valid", True)


def test_what_was_received_before_a_revocation_stays_received(ws: Workspace, tmp_path: Path) -> None:
    path = iab(tmp_path)
    first = receive_file(ws, Ledger(ws), path, utc_now())
    for name in ("controller", "publisher"):
        revoke_key(ws, keyid(ws, name), since=utc_now(), reason="superseded")
    again = receive_file(ws, Ledger(ws), path, utc_now())
    assert again == first
    assert len(Ledger(ws).events(kind="received")) == 1


def test_another_ones_receipt_of_the_same_bytes_revives_no_key(ws: Workspace, tmp_path: Path) -> None:
    path = opendsr(tmp_path)
    receive_file(ws, Ledger(ws), path, utc_now())
    revoke_key(ws, keyid(ws, "agent-7"), since=utc_now(), reason="stolen")
    headers_file(path).write_text(json.dumps({"X-OpenDSR-Signature": base64.b64encode(AGENT_KEY.sign(path.read_bytes())).decode()}))
    assert refuse(ws, path)[0] == "key_not_valid"


def test_the_ledger_check_judges_both_keys_of_an_iab_pair(ws: Workspace, tmp_path: Path) -> None:
    receive_file(ws, Ledger(ws), iab(tmp_path), utc_now())
    assert run_verify(ws.ledger / "ledger.sqlite", None, None)["judged"] == {"request": 2, "approval": 0}
    revoke_key(ws, keyid(ws, "publisher"), since=utc_now() - HOUR, reason="stolen")
    with pytest.raises(VerificationError, match=f"request: key {keyid(ws, 'publisher')[:12]} was revoked since"):
        run_verify(ws.ledger / "ledger.sqlite", None, None)


def test_a_gateways_time_does_not_revive_a_stolen_key(ws: Workspace, tmp_path: Path) -> None:
    """`Received-At` is unsigned: it judges the message's own times, never the key."""
    revoke_key(ws, keyid(ws, "controller"), since=utc_now(), reason="stolen")
    reason, message = refuse(ws, opendsr(tmp_path, **{"Received-At": (utc_now() - 24 * HOUR).isoformat()}))
    assert reason == "key_not_valid"
    assert message.endswith("[OpenDSR: 400 Unauthorized]")


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        ("0001-01-01T00:00:00Z", "lies before 2000"),  # west of UTC there is no such day
        ("1999-12-31T23:59:59Z", "lies before 2000"),
        ("9999-12-31T23:59:59Z", "lies in the future"),
    ],
)
def test_a_gateways_time_must_be_plausible(ws: Workspace, tmp_path: Path, time: str, problem: str) -> None:
    reason, message = refuse(ws, opendsr(tmp_path, **{"Received-At": time}))
    assert (reason, problem in message) == ("bad_headers", True)


def test_a_request_is_known_by_issuer_id_and_digest(ws: Workspace, tmp_path: Path) -> None:
    ledger = Ledger(ws)
    first = receive_file(ws, ledger, drp(tmp_path), utc_now())
    assert receive_file(ws, ledger, tmp_path / "message.drp", utc_now()).requests == first.requests
    assert len(ledger.events(kind="received")) == len(ledger.requests()) == 1
    reason, message = refuse(ws, drp(tmp_path, email="other@example.com"))
    assert reason == "request_id_reused"
    assert message.endswith("[DRP: denied, suspected_fraud]")
    own = tmp_path / "own.yaml"
    add_issuer(ws, "owner:johanna", None)
    own.write_text(
        "schema: lethe/deletion-request/v1\nrequest_id: foo\nissuer: owner:johanna\nregulation: gdpr\n"
        "submitted_at: 2026-01-01T00:00:00Z\nsubject: {owner_ids: [johanna]}\n"
    )
    sign_file(ws, own, "owner:johanna")
    (request,) = receive_file(ws, ledger, own, utc_now()).requests
    assert request.request_id.partition("@")[0] == "foo" != request.request_id


OWN = """schema: lethe/deletion-request/v1
request_id: {id}
issuer: agency
regulation: gdpr
submitted_at: 2026-11-24T09:00:00Z
subject: {{owner_ids: [johanna]}}
"""
OWN_CSV = "request_id,issuer,regulation,submitted_at,owner_id,sample_id\n{id},agency,gdpr,2026-01-01T00:00:00Z,johanna,\n"


@pytest.mark.parametrize(
    ("name", "request_id", "content"),
    [
        ("a.yaml", "case-12.json", OWN),
        ("a.yaml", "2026-11-24.csv", OWN),
        ("a.yml", "r-1", "# Withdrawal of 24 November, by mail\n" + OWN),
        ("a.yaml", "r-1", "{{" + ", ".join(OWN.splitlines()) + "}}"),
        ("a.csv", "batch.yaml", OWN_CSV),
    ],
)
def test_what_was_received_is_read_again_as_it_was_read_then(
    ws: Workspace, tmp_path: Path, name: str, request_id: str, content: str
) -> None:
    add_issuer(ws, "agency", None)
    path, ledger = tmp_path / name, Ledger(ws)
    path.write_text(content.format(id=request_id))
    sign_file(ws, path, "agency")
    (request,) = receive_file(ws, ledger, path, utc_now()).requests
    event = ledger.last("received", request_id)
    assert event is not None
    earlier = {key: value for key, value in event.body.items() if key != "syntax"}
    for body in (event.body, earlier):
        assert find_request(ws, path.read_bytes(), request_id, body) == request


def test_only_our_own_form_has_a_syntax(ws: Workspace, tmp_path: Path) -> None:
    receive_file(ws, Ledger(ws), drp(tmp_path), utc_now())
    assert "syntax" not in Ledger(ws).events(kind="received")[0].body


def test_an_unverified_copy_of_a_body_blocks_nothing(ws: Workspace, tmp_path: Path) -> None:
    path = opendsr(tmp_path)
    genuine = headers_file(path).read_text()
    for header in ("AAAA", base64.b64encode(bytes(256)).decode()):
        headers_file(path).write_text(json.dumps({"X-OpenDSR-Signature": header}))
        assert refuse(ws, path)[0] in ("bad_signature_encoding", "unknown_issuer")
    headers_file(path).unlink()
    assert refuse(ws, path)[0] == "unsigned"
    headers_file(path).write_text(genuine)
    assert receive_file(ws, Ledger(ws), path, utc_now()).requests[0].request_id == "a7551968-d5d6-44b2-9831-815ac9017798"


@pytest.mark.parametrize(
    ("start", "words"),
    [(b'{"subject_request_id": "', "OpenDSR: 400 IllegalArgumentException"), (b"[", "fides: denied"), (b"A" * 100, "DRP: denied, other")],
)
def test_what_is_too_large_is_told_so_and_never_read(ws: Workspace, tmp_path: Path, start: bytes, words: str) -> None:
    path = tmp_path / "request.json"
    path.write_bytes(start + b"A" * 1_000_000)
    reason, message = refuse(ws, path)
    assert reason == "too_large"
    assert message.endswith(f"[{words}]")
    body = Ledger(ws).events()[-1].body
    assert (body["digest"], body["bytes"]) == (None, len(start) + 1_000_000)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"business-id": "other"}, "foreign", "DRP: denied, other"),
        ({"agent-id": "controller"}, "issuer_mismatch", "DRP: denied, suspected_fraud"),
        ({"expires-at": "2026-01-01T00:00:00Z"}, "expired", "DRP: expired"),
        ({"exercise": "access"}, "unsupported_right", "DRP: denied, claim_not_covered"),
        ({"email_verified": False}, "unverified_identity", "DRP: denied, insuf_verification"),
    ],
)
def test_a_refusal_is_recorded_in_both_words(ws: Workspace, tmp_path: Path, changes: dict[str, object], reason: str, words: str) -> None:
    path = drp(tmp_path, **changes)
    found, message = refuse(ws, path)
    assert (found, message.endswith(f"[{words}]")) == (reason, True)
    assert Ledger(ws).events()[-1].body["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert Ledger(ws).requests() == []


def test_an_issuer_with_a_certificate(ws: Workspace, tmp_path: Path) -> None:
    from cryptography import x509

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "processor.example")])

    def certify(start: timedelta, end: timedelta) -> Path:
        builder = x509.CertificateBuilder(name, name, EC_OTHER.public_key(), 7, utc_now() + start, utc_now() + end)
        path = tmp_path / "cert.pem"
        path.write_bytes(builder.sign(EC_OTHER, SHA256()).public_bytes(Encoding.PEM))
        return path

    with pytest.raises(InvalidInputError, match=r"cert\.pem: the certificate expired at "):
        add_issuer(ws, "processor", certify(-2 * HOUR, -HOUR))
    issuer = add_issuer(ws, "processor", certify(-HOUR, HOUR))
    entry = load_registry(ws).find(issuer.keyid)
    assert entry is not None
    assert entry.why_invalid(utc_now()) is None
    assert "expired" in str(entry.why_invalid(utc_now() + HOUR))
    assert "valid only from" in str(entry.why_invalid(utc_now() - 2 * HOUR))
    assert add_issuer(ws, "processor", certify(-HOUR, 3 * HOUR)) == issuer
    renewed = load_registry(ws).find(issuer.keyid)
    assert renewed is not None
    assert renewed.why_invalid(utc_now() + 2 * HOUR) is None
    again = add_key(ws, "processor", certify(-HOUR, HOUR), ["issuer"], valid_from=None, valid_until=utc_now() + 9 * HOUR)
    assert "expired" in str(again.why_invalid(utc_now() + HOUR))


EC_OTHER = ec.generate_private_key(ec.SECP256R1())


def test_who_approves_signs_with_ed25519(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a key in another role than issuer signs with Ed25519: not an Ed25519 key"):
        add_key(ws, "Dora", tmp_path / "controller.pem", ["model_owner"], valid_from=None, valid_until=None)
