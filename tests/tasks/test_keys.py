"""Keys: who may sign what, and that no file name tells a person's name."""

import base64
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from cdm_core.intake.requests import MAX_REQUEST_BYTES, DeletionRequest
from tasks.keys import (
    VerifiedIssuer,
    add_issuer,
    check_issuer,
    create_keys,
    load_record_keys,
    load_trusted_keys,
    owner_secret,
    sign_file,
    verify_file,
    workspace_key,
    workspace_signer,
)
from tasks.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws")
    create_keys(ws)
    return ws


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.yaml"
    path.write_bytes(b"schema: lethe/deletion-request/v1\n")
    return path


def write_public_key(path: Path, seed: int) -> Ed25519PrivateKey:
    private_key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    path.write_bytes(private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private_key


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_creating_keys_twice_keeps_them(ws: Workspace) -> None:
    before = {path: path.read_bytes() for path in ws.keys.iterdir() if path.is_file()}
    create_keys(ws)
    assert {path: path.read_bytes() for path in ws.keys.iterdir() if path.is_file()} == before
    assert len(owner_secret(ws)) == 32
    assert {path.name for path in before} == {".lock", "workspace.private.pem", "workspace.pem", "owner-secret"}


def test_two_workspaces_share_no_secret(ws: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other")
    create_keys(other)
    assert owner_secret(other) != owner_secret(ws)
    assert workspace_key(other) != workspace_key(ws)


def test_a_lost_public_key_comes_back_from_the_private_one(ws: Workspace) -> None:
    public_pem = (ws.keys / "workspace.pem").read_bytes()
    (ws.keys / "workspace.pem").unlink()
    create_keys(ws)
    assert (ws.keys / "workspace.pem").read_bytes() == public_pem


def test_secrets_are_readable_by_their_owner_alone(ws: Workspace) -> None:
    generated = add_issuer(ws, "owner:johanna", None)
    private_files = [
        ws.keys / "workspace.private.pem",
        ws.keys / "owner-secret",
        ws.keys / "registry.json",
        generated.path.with_name(f"{generated.keyid}.private.pem"),
    ]
    assert [mode(path) for path in private_files] == [0o600] * 4
    assert mode(ws.keys) == 0o700


def test_a_stale_partial_file_does_not_widen_a_secret(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.keys.mkdir(parents=True)
    stale = ws.keys / ".owner-secret.partial"
    stale.touch(mode=0o644)
    create_keys(ws)
    assert mode(ws.keys / "owner-secret") == 0o600


def test_signer_and_key_belong_together(ws: Workspace) -> None:
    signer = workspace_signer(ws)
    assert signer.public_key == workspace_key(ws)
    workspace_key(ws).verify_signature(signer.sign(b"record"), b"record")


def test_missing_or_damaged_keys(tmp_path: Path, ws: Workspace) -> None:
    nothing = Workspace(tmp_path / "nothing")
    for load in (workspace_signer, workspace_key):
        with pytest.raises(StateError, match="key is missing or unreadable"):
            load(nothing)
    with pytest.raises(StateError, match="the owner-key secret is missing or damaged"):
        owner_secret(nothing)
    (ws.keys / "owner-secret").write_text("abcd\n")
    with pytest.raises(StateError, match="the owner-key secret has 2 bytes, not 32"):
        owner_secret(ws)
    private_path = ws.keys / "workspace.private.pem"
    encrypted = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    private_path.write_bytes(encrypted)
    with pytest.raises(StateError, match=r"workspace\.private\.pem: the private key is missing or unreadable"):
        workspace_signer(ws)
    private_path.write_bytes(generate_ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(StateError, match=r"workspace\.private\.pem: not an Ed25519 key"):
        workspace_signer(ws)


def test_record_keys_are_the_workspaces_and_not_the_issuers(ws: Workspace) -> None:
    add_issuer(ws, "agency", None)
    assert load_record_keys(ws.keys) == [workspace_key(ws)]


def test_trusted_keys_are_those_of_a_file_or_a_folder(ws: Workspace, tmp_path: Path) -> None:
    assert load_trusted_keys(ws.keys / "workspace.pem") == load_trusted_keys(ws.keys) == [workspace_key(ws)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"empty: holds no public key \(\*\.pem\)$"):
        load_trusted_keys(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match=r"nowhere\.pem: cannot be read"):
        load_trusted_keys(tmp_path / "nowhere.pem")
    with pytest.raises(InvalidInputError, match=r"workspace\.private\.pem"):
        load_trusted_keys(ws.keys / "workspace.private.pem")


def test_sign_and_verify(ws: Workspace, request_file: Path) -> None:
    agency = add_issuer(ws, "agency", None)
    johanna = add_issuer(ws, "owner:johanna", None)
    assert sign_file(ws, request_file, "owner:johanna") == johanna.keyid != agency.keyid
    signature_text = request_file.with_name("request.yaml.sig").read_bytes()
    assert signature_text.count(b"\n") == 1
    assert len(base64.b64decode(signature_text)) == 64
    assert verify_file(ws, request_file.read_bytes(), signature_text) == VerifiedIssuer(issuer="owner:johanna", keyid=johanna.keyid)


def test_an_issuer_may_keep_the_private_key(ws: Workspace, request_file: Path, tmp_path: Path) -> None:
    private_key = write_public_key(tmp_path / "mine.pem", seed=1)
    issuer = add_issuer(ws, "owner:johanna", tmp_path / "mine.pem")
    signature_text = base64.b64encode(private_key.sign(request_file.read_bytes()))
    assert verify_file(ws, request_file.read_bytes(), signature_text).keyid == issuer.keyid
    with pytest.raises(StateError, match="issuer owner:johanna: the private key is not kept in this workspace"):
        sign_file(ws, request_file, "owner:johanna")


def test_no_file_is_called_after_an_issuer(ws: Workspace, tmp_path: Path) -> None:
    write_public_key(tmp_path / "johanna.pem", seed=1)
    add_issuer(ws, "owner:johanna", tmp_path / "johanna.pem")
    add_issuer(ws, "owner:ada", None)
    names = " ".join(str(path.relative_to(ws.root)) for path in ws.root.rglob("*"))
    assert "johanna" not in names
    assert "ada" not in names


def test_registering_again(ws: Workspace, tmp_path: Path) -> None:
    write_public_key(tmp_path / "one.pem", seed=1)
    write_public_key(tmp_path / "two.pem", seed=2)
    first = add_issuer(ws, "owner:johanna", tmp_path / "one.pem")
    assert add_issuer(ws, "owner:johanna", tmp_path / "one.pem") == first
    assert add_issuer(ws, "owner:johanna", None) == first
    generated = add_issuer(ws, "agency", None)
    assert add_issuer(ws, "agency", None) == generated
    with pytest.raises(StateError, match="issuer owner:johanna: already registered with another key"):
        add_issuer(ws, "owner:johanna", tmp_path / "two.pem")
    with pytest.raises(StateError, match=r"one\.pem: this key already belongs to another issuer"):
        add_issuer(ws, "owner:ada", tmp_path / "one.pem")
    assert add_issuer(ws, "owner:johanna", None) == first


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\tb", "x" * 257])
def test_unusable_names(ws: Workspace, name: str) -> None:
    with pytest.raises(InvalidInputError, match="issuer name: must be 1 to 256 printable characters"):
        add_issuer(ws, name, None)


def test_unusable_key_files(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"absent\.pem: cannot be read: No such file"):
        add_issuer(ws, "agency", tmp_path / "absent.pem")
    (tmp_path / "bad.pem").write_bytes(os.urandom(20_000))
    with pytest.raises(InvalidInputError, match=r"bad\.pem: not a public key in PEM"):
        add_issuer(ws, "agency", tmp_path / "bad.pem")
    assert not (ws.keys / "registry.json").exists()


def test_what_cannot_be_signed(ws: Workspace, request_file: Path, tmp_path: Path) -> None:
    add_issuer(ws, "agency", None)
    with pytest.raises(StateError, match="issuer other: not registered; do so with: lethe keys add-issuer other"):
        sign_file(ws, request_file, "other")
    with pytest.raises(InvalidInputError, match=r"absent\.yaml: no such file"):
        sign_file(ws, tmp_path / "absent.yaml", "agency")
    request_file.write_bytes(b" " * (MAX_REQUEST_BYTES + 1))
    with pytest.raises(RequestRefusedError, match="more than the 1,000,000 of a request"):
        sign_file(ws, request_file, "agency")


def test_what_cannot_be_read_or_written_is_told_in_one_line(
    ws: Workspace, request_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_issuer(ws, "agency", None)
    with pytest.raises(InvalidInputError, match="x: can't be read: File name too long"):
        sign_file(ws, tmp_path / ("x" * 300), "agency")
    longest = tmp_path / ("x" * 250)
    longest.write_bytes(b"request")
    with pytest.raises(InvalidInputError, match="can't be written: File name too long"):
        sign_file(ws, longest, "agency")

    def refuse(path: Path, content: bytes, *, mode: int = 0o644) -> None:
        raise PermissionError(13, "Permission denied")  # root, who runs tests at times, may write anywhere

    monkeypatch.setattr("tasks.files.write_atomically", refuse)
    with pytest.raises(InvalidInputError, match="can't be written: Permission denied"):
        sign_file(ws, request_file, "agency")


@pytest.mark.parametrize(
    ("signature_text", "reason", "message"),
    [
        (None, "unsigned", "the request is not signed"),
        (b"", "bad_signature_encoding", "the signature has 0 bytes"),
        (b"AAAA", "bad_signature_encoding", "the signature has 3 bytes, an Ed25519 signature has 64"),
        (b"\xff\xfe", "bad_signature_encoding", "the signature is not base64"),
        (b"-----BEGIN", "bad_signature_encoding", "the signature is not base64"),
        (base64.b64encode(bytes(64)), "unknown_issuer", "fits no registered issuer"),
    ],
)
def test_bad_signatures(ws: Workspace, signature_text: bytes | None, reason: str, message: str) -> None:
    add_issuer(ws, "agency", None)
    with pytest.raises(RequestRefusedError, match=message) as caught:
        verify_file(ws, b"content", signature_text)
    assert caught.value.reason == reason


def test_a_changed_byte_a_strange_key_and_another_file_are_refused(ws: Workspace, request_file: Path) -> None:
    stranger = Ed25519PrivateKey.generate()
    content = request_file.read_bytes()
    with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
        verify_file(ws, content, base64.b64encode(stranger.sign(content)))  # nobody is registered yet
    add_issuer(ws, "agency", None)
    sign_file(ws, request_file, "agency")
    signature_text = request_file.with_name("request.yaml.sig").read_bytes()
    attempts = [(content, base64.b64encode(stranger.sign(content))), (b"another file", signature_text)]
    attempts += [(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :], signature_text) for i in range(len(content))]
    for attempt in attempts:
        with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
            verify_file(ws, *attempt)


def test_the_workspaces_own_key_signs_no_requests(ws: Workspace) -> None:
    signature = bytes.fromhex(workspace_signer(ws).sign(b"content").signature)
    with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
        verify_file(ws, b"content", base64.b64encode(signature))


def test_a_damaged_registry(ws: Workspace, tmp_path: Path) -> None:
    issuer = add_issuer(ws, "agency", None)
    write_public_key(issuer.path, seed=3)
    with pytest.raises(StateError, match="holds another key than the one that was registered"):
        verify_file(ws, b"content", base64.b64encode(bytes(64)))
    (ws.keys / "registry.json").write_text("{")
    with pytest.raises(StateError, match="the registry of keys is damaged: not a DSSE envelope"):
        verify_file(ws, b"content", base64.b64encode(bytes(64)))
    (ws.keys / "registry.json").unlink()
    (ws.keys / "issuers.json").write_text("{")
    with pytest.raises(StateError, match="the registry of issuers is damaged"):
        verify_file(ws, b"content", base64.b64encode(bytes(64)))


def test_the_stated_issuer_must_be_the_signer() -> None:
    request = DeletionRequest(
        request_id="r-1",
        issuer="owner:johanna",
        regulation="gdpr",
        submitted_at=datetime(2026, 11, 24, tzinfo=UTC),
        owner_ids=("johanna",),
        sample_ids=(),
        image_files=(),
        captions_like=None,
        reason=None,
    )
    check_issuer([request], VerifiedIssuer(issuer="owner:johanna", keyid="0"))
    with pytest.raises(RequestRefusedError, match="request r-1: issuer: states another issuer than the one who signed") as caught:
        check_issuer([request], VerifiedIssuer(issuer="agency", keyid="0"))
    assert caught.value.reason == "issuer_mismatch"
