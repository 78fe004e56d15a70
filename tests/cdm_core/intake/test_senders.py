"""Senders' keys: which are taken, and that the algorithm is the registered key's; by published vectors and by signatures of openssl."""

import base64
import hashlib
import hmac
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
import senders as s
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cdm_core.errors import InvalidInputError, RequestRefusedError
from cdm_core.intake.detection import Format
from cdm_core.intake.iab import verify_token
from cdm_core.intake.reception import Parcel, judge
from cdm_core.intake.senders import SenderKey, SenderPublicKey, parse_key_file

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(public_key: object) -> bytes:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def registered(name: str, public_key: SenderPublicKey) -> SenderKey:
    return SenderKey(issuer=name, keyid=name, public_key=public_key)


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


# RFC 7515, appendices A.2 (RS256) and A.3 (ES256); RFC 8037, appendix A.4 (EdDSA)
_CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
JWS: dict[str, tuple[str, SenderPublicKey]] = {
    "RS256": (
        f"eyJhbGciOiJSUzI1NiJ9.{_CLAIMS}."
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4"
        "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPq"
        "vhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        rsa.RSAPublicNumbers(
            number("AQAB"),
            number(
                "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_"
                "YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uD"
                "Zlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
            ),
        ).public_key(),
    ),
    "ES256": (
        f"eyJhbGciOiJFUzI1NiJ9.{_CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ec.EllipticCurvePublicNumbers(
            number("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
            number("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
            ec.SECP256R1(),
        ).public_key(),
    ),
    "EdDSA": (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")),
    ),
}
JWS_KEYS = [registered(algorithm, public_key) for algorithm, (_, public_key) in JWS.items()]


@pytest.mark.parametrize("algorithm", JWS)
def test_the_published_tokens_are_their_keys(algorithm: str) -> None:
    token, public_key = JWS[algorithm]
    assert verify_token(token.encode(), JWS_KEYS, "token").issuer == algorithm
    assert verify_token(token.encode(), [registered("x", parse_key_file(pem(public_key), "x").public_key)], "token").issuer == "x"
    others = [key for key in JWS_KEYS if key.issuer != algorithm]
    with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
        verify_token(token.encode(), others, "token")
    changed = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
        verify_token(changed.encode(), JWS_KEYS, "token")


def test_a_header_chooses_no_algorithm() -> None:
    """The classic confusion: the public key, known to all, as the secret of an HMAC; and a header that names another key's algorithm."""
    header, claims = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"="), _CLAIMS.encode()
    tag = hmac.new(pem(RSA_KEY.public_key()), header + b"." + claims, hashlib.sha256).digest()
    forged = b".".join([header, claims, base64.urlsafe_b64encode(tag).rstrip(b"=")])
    with pytest.raises(RequestRefusedError, match="header") as caught:
        verify_token(forged, [registered("rsa", RSA_KEY.public_key())], "token")
    assert caught.value.reason == "invalid_token"
    for other in ("RS256", "ES256"):
        head = base64.urlsafe_b64encode(f'{{"alg":"{other}"}}'.encode()).rstrip(b"=")
        signature = base64.urlsafe_b64encode(s.PRIVATE[s.VENDOR].sign(head + b"." + claims)).rstrip(b"=")
        with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
            verify_token(b".".join([head, claims, signature]), s.KEYS, "token")


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("ES256", EC_KEY)])
def test_an_iab_pair_signed_by_rsa_and_by_ecdsa(algorithm: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    def sign(claims: dict[str, object]) -> bytes:
        return jwt.encode(claims, key, algorithm=algorithm).encode()

    inner = sign(s.identity_claims())
    outer = s.iab(identity=inner)
    keys = [each for each in s.KEYS if each.issuer != s.PUBLISHER] + [registered(s.PUBLISHER, key.public_key())]
    accepted = judge(Parcel(content=outer, file_name="x", signature=None), keys, business=s.BUSINESS, now=s.NOW)
    assert accepted.signer.issuer == s.VENDOR
    assert accepted.requests[0].request_id == "rq-1"


@pytest.mark.parametrize("who", [s.VENDOR, s.PUBLISHER])
def test_both_keys_of_an_iab_pair_must_count(who: str) -> None:
    keys = [replace(key, problem="was revoked since 2026-01-01") if key.issuer == who else key for key in s.KEYS]
    with pytest.raises(RequestRefusedError, match=r"was revoked since 2026-01-01 \[IAB: raResultCode 2\]") as caught:
        judge(Parcel(content=s.iab(), file_name="x", signature=None), keys, business=s.BUSINESS, now=s.NOW)
    assert caught.value.reason == "key_not_valid"
    assert ("idJWT" in str(caught.value)) is (who == s.PUBLISHER)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("own", None),
        ("opendsr", "OpenDSR: 400 Unauthorized"),
        ("fides", "fides: denied"),
        ("drop", "DROP: no response file"),
        ("drp", "DRP: denied, suspected_fraud"),
    ],
)
def test_a_key_that_does_not_count_is_refused_before_anything_is_parsed(form: Format, words: str | None) -> None:
    keys = [replace(key, problem="expired at 2026-01-01") for key in s.KEYS]
    content = s.good_files()[form] if form == "drp" else b"\xff nothing that any parser takes"
    with pytest.raises(RequestRefusedError, match="expired at 2026-01-01") as caught:
        judge(Parcel(content=content, file_name="x", signature=s.sign(content)), keys, business=s.BUSINESS, now=s.NOW, form=form)
    assert caught.value.reason == "key_not_valid"
    assert words is None or str(caught.value).endswith(f"[{words}]")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY])
def test_a_signature_that_openssl_made_is_its_keys(tmp_path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "body").write_bytes(s.OPENDSR_EXAMPLE)
    openssl(tmp_path, "dgst", "-sha256", "-sign", "key.pem", "-out", "sig", "body")
    openssl(tmp_path, "pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public.der")
    keys = [*s.KEYS, registered("processor", key.public_key())]

    def receive(signature: bytes) -> str:
        given = Parcel(content=s.OPENDSR_EXAMPLE, file_name="x", signature=base64.b64encode(signature))
        return judge(given, keys, business=s.BUSINESS, now=s.NOW).signer.issuer

    signature = (tmp_path / "sig").read_bytes()
    assert receive(signature) == "processor"
    assert parse_key_file(pem(key.public_key()), "x").keyid == hashlib.sha256((tmp_path / "public.der").read_bytes()).hexdigest()
    others = [signature[:-1] + bytes([signature[-1] ^ 1]), signature + b"\0", s.PRIVATE[s.STRANGER].sign(s.OPENDSR_EXAMPLE)]
    if isinstance(key, rsa.RSAPrivateKey):
        others += [
            key.sign(s.OPENDSR_EXAMPLE, PSS(mgf=MGF1(SHA256()), salt_length=32), SHA256()),
            key.sign(s.OPENDSR_EXAMPLE, PKCS1v15(), SHA1()),
        ]
    for other in others:
        with pytest.raises(RequestRefusedError, match="fits no registered issuer"):
            receive(other)


def test_a_certificate_is_a_key_with_bounds(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    openssl(tmp_path, "req", "-x509", "-key", "key.pem", "-subj", "/CN=processor.example", "-days", "10", "-out", "cert.pem")
    content = (tmp_path / "cert.pem").read_bytes()
    found = parse_key_file(content, "cert.pem")
    assert (found.keyid, found.pem) == (parse_key_file(pem(RSA_KEY.public_key()), "x").keyid, pem(RSA_KEY.public_key()).decode())
    assert found.valid_from is not None
    assert found.valid_until is not None
    assert (found.valid_until - found.valid_from).days == 10
    assert found.valid_from < datetime.now(UTC) < found.valid_until
    with pytest.raises(InvalidInputError, match=r"^two\.pem: holds 2 certificates; give the signer's alone$"):
        parse_key_file(content * 2, "two.pem")
    with pytest.raises(InvalidInputError, match=r"^cut\.pem: not a public key in PEM$"):
        parse_key_file(content.replace(b"MII", b"MIJ", 1), "cut.pem")


def _modulus(bits: int) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, (1 << bits) - 159).public_key()


WEAK = {
    "1,024 bits": (lambda: pem(rsa.generate_private_key(65537, 1024).public_key()), "an RSA key of 1,024 bits, not 2,048 to 8,192"),
    "9,000 bits": (lambda: pem(_modulus(9000)), "an RSA key of 9,000 bits, not 2,048 to 8,192"),
    "exponent 3": (lambda: pem(rsa.RSAPublicNumbers(3, RSA_KEY.public_key().public_numbers().n).public_key()), "an exponent below 65,537"),
    "P-384": (lambda: pem(ec.generate_private_key(ec.SECP384R1()).public_key()), "an elliptic curve other than P-256"),
    "secp256k1": (lambda: pem(ec.generate_private_key(ec.SECP256K1()).public_key()), "an elliptic curve other than P-256"),
    "Ed448": (lambda: pem(ed448.Ed448PrivateKey.generate().public_key()), "not an Ed25519, RSA or EC P-256 key"),
    "X25519": (lambda: pem(x25519.X25519PrivateKey.generate().public_key()), "not an Ed25519, RSA or EC P-256 key"),
    "DSA": (
        lambda: pem(dsa.DSAPublicNumbers(4, dsa.DSAParameterNumbers((1 << 2047) + 1, (1 << 255) + 95, 3)).public_key()),
        "not an Ed25519, RSA or EC P-256 key",
    ),
    "a private key": (lambda: RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "not a public key in PEM"),
    "nothing": (lambda: b"", "not a public key in PEM"),
    "noise": (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a public key in PEM"),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_and_unknown_keys_are_refused_in_one_line(name: str) -> None:
    make, message = WEAK[name]
    with pytest.raises(InvalidInputError) as caught:
        parse_key_file(make(), "key.pem")
    assert str(caught.value).startswith("key.pem: ")
    assert str(caught.value).endswith(message)
    assert str(caught.value).isprintable()
