"""The identity table: every form in which an identifier arrives finds its owner, and the file tells nobody."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from cdm_core.digests import keyed_hash
from cdm_core.errors import InvalidInputError, StateError
from cdm_core.intake.encodings import compute_drop_hash
from cdm_core.intake.requests import Identifier, IdentifierFormat
from cdm_core.sharding.partition import compute_owner_key
from tasks.keys import create_keys, owner_secret
from tasks.requests.identities import add_identities, find_owner_keys
from tasks.workspace import Workspace

EMAIL, PHONE = "Jo.Anna@Example.com", "+1(415)555-9317"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    create_keys(made)
    add_identities(made, "johanna", [("email", EMAIL), ("phone", PHONE), ("controller_customer_id", "c-1")])
    return made


def found(ws: Workspace, kind: str, form: IdentifierFormat, value: str) -> list[str]:
    return sorted(find_owner_keys(ws, Identifier(type=kind, format=form, value=value)))


@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [
        ("email", "raw", EMAIL),
        ("email", "raw", " jo.anna@example.com "),
        ("email", "raw", "JO.ANNA@EXAMPLE.COM"),
        ("email", "md5", hashlib.md5(b"jo.anna@example.com").hexdigest()),
        ("email", "sha1", hashlib.sha1(EMAIL.encode()).hexdigest()),
        ("email", "sha256", hashlib.sha256(b"jo.anna@example.com").hexdigest().upper()),
        ("email", "drop", compute_drop_hash("jo.anna@example.com")),
        ("phone", "drop", "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E="),
        ("phone_number", "raw", "+14155559317"),
        ("phone", "raw", "415-555-9317"),
        ("phone", "sha256", hashlib.sha256(b"+14155559317").hexdigest()),
        ("controller_customer_id", "raw", "c-1"),
        ("external_id", "sha256", hashlib.sha256(b"c-1").hexdigest()),
    ],
)
def test_every_form_finds_the_owner(ws: Workspace, kind: str, form: IdentifierFormat, value: str) -> None:
    assert found(ws, kind, form, value) == [compute_owner_key(owner_secret(ws), "johanna")]


@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [
        ("phone", "raw", EMAIL),
        ("email", "raw", "anna@example.com"),
        ("email", "sha256", EMAIL),
        ("email", "raw", ""),
        ("android_id", "raw", "c-1"),
    ],
)
def test_anything_else_finds_nobody(ws: Workspace, kind: str, form: IdentifierFormat, value: str) -> None:
    assert found(ws, kind, form, value) == []


AUSTIN, GERMAN = "+1 (512) 345-6789", "+49 1512 3456789"
MONTREAL, PERUVIAN = "514-412-3456", "+51 44 123456"


@pytest.mark.parametrize(
    ("known", "other"),
    [
        (AUSTIN, GERMAN),
        (AUSTIN, "4915123456789"),
        (GERMAN, AUSTIN),
        (GERMAN, "15123456789"),
        (MONTREAL, PERUVIAN),
        (PERUVIAN, MONTREAL),
    ],
)
def test_a_number_of_another_country_with_the_same_last_digits_finds_nobody(ws: Workspace, known: str, other: str) -> None:
    add_identities(ws, "owner", [("phone", known)])
    assert found(ws, "phone", "raw", other) == []
    assert found(ws, "phone", "sha256", hashlib.sha256(other.encode()).hexdigest()) == []


def test_the_last_ten_digits_are_a_number_for_drop_alone(ws: Workspace) -> None:
    add_identities(ws, "owner", [("phone", GERMAN)])
    owner = [compute_owner_key(owner_secret(ws), "owner")]
    assert found(ws, "phone", "drop", compute_drop_hash("5123456789")) == owner
    assert found(ws, "phone", "md5", hashlib.md5(b"5123456789").hexdigest()) == []
    assert found(ws, "phone", "sha1", hashlib.sha1(b"5123456789").hexdigest()) == []
    assert found(ws, "phone", "sha256", hashlib.sha256(b"5123456789").hexdigest()) == []
    assert found(ws, "phone", "raw", "5123456789") == []


@pytest.mark.parametrize("given", ["+1 (512) 345-6789", "1-512-345-6789", "512 345 6789"])
@pytest.mark.parametrize("asked", ["+15123456789", "15123456789", "5123456789", "(512) 345-6789"])
def test_a_north_american_number_is_found_with_and_without_its_country(ws: Workspace, given: str, asked: str) -> None:
    add_identities(ws, "owner", [("phone", given)])
    owner = [compute_owner_key(owner_secret(ws), "owner")]
    assert found(ws, "phone", "raw", asked) == owner
    digits = asked if asked.strip("+").isdigit() else "5123456789"
    assert found(ws, "phone", "sha256", hashlib.sha256(digits.encode()).hexdigest()) == owner


@pytest.mark.parametrize(
    ("given", "asked", "is_found"),
    [
        (GERMAN, "5123456789", False),
        (GERMAN, AUSTIN, False),
        (AUSTIN, GERMAN, False),
        (GERMAN, GERMAN, True),
        (AUSTIN, "5123456789", True),
        ("512-345-6789", AUSTIN, True),
        ("512-345-6789", "5123456789", True),
    ],
)
def test_a_table_of_an_older_release_finds_nobody_by_the_last_ten_digits_alone(
    ws: Workspace, given: str, asked: str, is_found: bool
) -> None:
    digits, secret = "".join(filter(str.isdigit, given)), owner_secret(ws)
    names = [keyed_hash(secret, "identity", "phone", "raw", text) for text in (given, digits, f"+{digits}", digits[-10:])]
    (ws.keys / "identities.json").write_text(json.dumps({name: ["0" * 64] for name in names}))
    assert found(ws, "phone", "raw", asked) == (["0" * 64] if is_found else [])


def test_the_file_holds_keyed_hashes_for_its_owner_alone(ws: Workspace) -> None:
    path = ws.keys / "identities.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    for value in ("jo.anna@example.com", "4155559317", "c-1"):
        assert value not in text.lower()
        assert hashlib.sha256(value.encode()).hexdigest() not in text
    assert "johanna" not in text


def test_adding_again_adds_nothing_and_sharing_finds_both(ws: Workspace) -> None:
    assert add_identities(ws, "johanna", [("email", EMAIL)]) == 0
    assert add_identities(ws, "ben", [("email", EMAIL)]) == 1
    assert len(found(ws, "email", "raw", EMAIL)) == 2


@pytest.mark.parametrize(
    ("owner", "given", "message"),
    [
        ("", [("email", "a@b.c")], "name an owner"),
        ("johanna", [], "at least one identifier"),
        ("johanna", [("email", " ")], "identities: email: must be printable"),
        ("johanna", [("phone", "12-34")], "fewer than 7 digits"),
    ],
)
def test_what_is_no_identity(ws: Workspace, owner: str, given: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        add_identities(ws, owner, given)


def test_a_damaged_table_is_told(ws: Workspace) -> None:
    (ws.keys / "identities.json").write_text("{")
    with pytest.raises(StateError, match="the identity table is damaged"):
        found(ws, "email", "raw", EMAIL)
