"""Every form: what is accepted, what is refused and with which reason, and that nothing else comes out of 20,000 damaged files
(with `-m slow`; else fewer).
"""

import base64
import csv
import hashlib
import io
import json
import random
import struct
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta

import jwt
import pytest
import senders as s
from senders import NOW, parcel

from cdm_core.errors import RequestRefusedError
from cdm_core.intake.detection import FORMATS, Format, detect_format, find_form
from cdm_core.intake.opendsr import NO_REGULATION
from cdm_core.intake.reception import Accepted, Parcel, judge, parse_any
from cdm_core.intake.requests import Identifier


def accept(given: Parcel, **changes: object) -> Accepted:
    return judge(given, s.KEYS, **({"business": s.BUSINESS, "now": NOW} | changes))  # type: ignore[arg-type]


def refusal(given: Parcel, **changes: object) -> tuple[str, str]:
    """(reason, message), which is one line."""
    with pytest.raises(RequestRefusedError) as caught:
        accept(given, **changes)
    message = str(caught.value)
    assert message.isprintable()
    return caught.value.reason, message


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_is_recognised_and_accepted(form: Format) -> None:
    content = s.good_files()[form]
    assert detect_format(content) == form == find_form(form)
    accepted = accept(parcel(content, None if form in ("drp", "iab") else s.OPERATOR))
    assert accepted.format == form
    assert accepted.signer.issuer == accepted.requests[0].issuer
    assert "johndoe" not in repr(accepted)
    again, _ = parse_any(content, "kept", form, business=s.BUSINESS)
    assert [request.identifiers for request in again] == [request.identifiers for request in accepted.requests]


def test_auto_is_no_form() -> None:
    assert find_form("auto") is None


def test_the_published_opendsr_example_is_taken_although_it_lacks_its_regulation() -> None:
    accepted = accept(parcel(s.OPENDSR_EXAMPLE))
    (request,) = accepted.requests
    assert accepted.notes == (NO_REGULATION,)
    assert (request.request_id, request.regulation) == ("a7551968-d5d6-44b2-9831-815ac9017798", "gdpr")
    assert request.identifiers == (Identifier(type="email", format="raw", value="johndoe@example.com"),)


def _opendsr(**changes: object) -> bytes:
    return json.dumps(json.loads(s.OPENDSR_EXAMPLE) | changes).encode()


def test_an_opendsr_extension_of_ours_names_samples() -> None:
    sample = "ab" * 32
    content = _opendsr(subject_identities=[], regulation="ccpa", extensions={s.BUSINESS: {"sample_ids": [f"sha256:{sample}"]}})
    accepted = accept(parcel(content))
    assert accepted.requests[0].sample_ids == (sample,)
    assert accepted.notes == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject_request_type": "access"}, "unsupported_right"),
        ({"subject_request_type": "portability"}, "unsupported_right"),
        ({"subject_request_id": "A7551968-D5D6-44B2-9831-815AC9017798"}, "bad_field"),
        ({"regulation": "lgpd"}, "bad_field"),
        ({"more": 1}, "bad_field"),
        ({"subject_identities": []}, "empty_subject"),
        ({"extensions": {s.BUSINESS: {"other": 1}}}, "bad_field"),
        ({"extensions": {s.BUSINESS: {"sample_ids": ["x"]}}}, "bad_field"),
        ({"submitted_time": "2027-01-01T00:00:00Z"}, "issued_in_future"),
    ],
)
def test_opendsr_refusals(changes: Mapping[str, object], reason: str) -> None:
    found, message = refusal(parcel(_opendsr(**changes)))
    assert found == reason
    assert message.endswith("[OpenDSR: 400 IllegalArgumentException]")


def test_opendsr_for_another_processor_is_foreign() -> None:
    given = Parcel(content=s.OPENDSR_EXAMPLE, file_name="x", signature=s.sign(s.OPENDSR_EXAMPLE), domain="example-processor.com")
    assert refusal(given)[0] == "foreign"


def test_the_layout_of_a_drp_message() -> None:
    decoded = base64.b64decode(s.drp(), validate=True)
    s.PRIVATE[s.AGENT].public_key().verify(decoded[:64], decoded[64:])
    assert json.loads(decoded[64:])["drp.version"] == "1.0"
    (request,) = accept(parcel(s.drp(), None)).requests
    assert {(found.type, found.value) for found in request.identifiers} == {("email", "johndoe@example.com"), ("phone", "+14155559317")}
    assert (request.request_id, request.regulation) == ("foo", "ccpa")


def test_a_drp_message_without_id_is_known_by_its_digest() -> None:
    message = {name: value for name, value in s.DRP_MESSAGE.items() if name != "agent-request-id"}
    (request,) = accept(parcel(s.drp(message), None)).requests
    assert request.request_id == f"drp-{hashlib.sha256(json.dumps(message).encode()).hexdigest()[:32]}"


# In the protocol's order: each message has all the faults of those after it.
_FAULTY = s.DRP_MESSAGE | {
    "agent-id": s.STRANGER,
    "business-id": "other",
    "issued-at": "2026-11-24T09:00:00Z",
    "expires-at": "2026-11-24T09:00:00Z",
}
DRP_ORDER: list[tuple[str, bytes, str, str]] = [
    ("base64", s.drp(_FAULTY, s.STRANGER)[1:], "bad_signature_encoding", "suspected_fraud"),
    ("signature", s.drp(_FAULTY, s.STRANGER), "unknown_issuer", "suspected_fraud"),
    ("agent", s.drp(_FAULTY), "issuer_mismatch", "suspected_fraud"),
    ("business", s.drp(_FAULTY | {"agent-id": s.AGENT}), "foreign", "other"),
    ("issued", s.drp(_FAULTY | {"agent-id": s.AGENT, "business-id": s.BUSINESS}), "issued_in_future", "other"),
]


@pytest.mark.parametrize(("content", "reason", "theirs"), [case[1:] for case in DRP_ORDER], ids=[case[0] for case in DRP_ORDER])
def test_drp_checks_come_in_the_protocols_order(content: bytes, reason: str, theirs: str) -> None:
    found, message = refusal(parcel(content, None), form="drp")
    assert found == reason
    assert message.endswith(f"[DRP: denied, {theirs}]")


def test_drp_expiry_is_judged_at_the_time_of_receipt() -> None:
    given = parcel(s.drp(), None)
    assert refusal(given, now=NOW + timedelta(minutes=9)) == (
        "expired",
        "request: expires-at: the request had expired when it was received [DRP: expired]",
    )
    assert accept(given, now=NOW + timedelta(minutes=8, seconds=59))
    assert refusal(given, now=NOW - timedelta(minutes=1))[0] == "issued_in_future"


@pytest.mark.parametrize(
    ("changes", "reason", "theirs"),
    [
        ({"exercise": "access"}, "unsupported_right", "claim_not_covered"),
        ({"email_verified": False, "phone_number_verified": False}, "unverified_identity", "insuf_verification"),
        ({"email_verified": "true"}, "bad_field", "other"),
        ({"drp.version": "0.9.4"}, "bad_field", "other"),
        ({"extra": 1}, "bad_field", "other"),
    ],
)
def test_drp_refusals(changes: Mapping[str, object], reason: str, theirs: str) -> None:
    found, message = refusal(parcel(s.drp({**s.DRP_MESSAGE, **changes}), None))
    assert found == reason
    assert message.endswith(f"[DRP: denied, {theirs}]")


def test_a_fides_import_is_as_many_requests_as_it_has_entries() -> None:
    entries = [{**s.FIDES_ENTRY, "external_id": f"e-{number}"} for number in range(50)]
    accepted = accept(parcel(s.fides(*entries)))
    assert [request.request_id for request in accepted.requests] == [f"e-{number}" for number in range(50)]
    assert {found.type for found in accepted.requests[0].identifiers} == {"email", "phone", "loyalty"}
    assert accepted.requests[0].regulation == "ccpa"
    assert refusal(parcel(s.fides(*entries, {**s.FIDES_ENTRY, "external_id": "e-50"})))[0] == "bad_field"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{**s.FIDES_ENTRY, "policy_key": "default_access_policy"}], "unsupported_right"),
        ([{**s.FIDES_ENTRY, "identity": {"email": None}}], "empty_subject"),
        ([s.FIDES_ENTRY, s.FIDES_ENTRY], "repeated_id"),
        ([{**s.FIDES_ENTRY, "more": 1}], "bad_field"),
        ([{**s.FIDES_ENTRY, "requested_at": "yesterday"}], "bad_field"),
    ],
)
def test_fides_refusals(entries: list[Mapping[str, object]], reason: str) -> None:
    found, message = refusal(parcel(s.fides(*entries)))
    assert found == reason
    assert message.endswith("[fides: denied]")


def test_an_empty_fides_import_is_refused() -> None:
    assert refusal(parcel(b"[]"))[0] == "bad_field"


def test_an_iab_request_names_what_the_requester_calls_it() -> None:
    (request,) = accept(parcel(s.iab(), None)).requests
    assert request.request_id == "rq-1"
    assert request.issuer == s.VENDOR
    assert request.identifiers[0].format == "sha256"
    as_text = s.iab(sub=json.dumps({"identifierValue": "c-1", "identifierType": "customer_id", "identifierFormat": "plaintext"}))
    assert accept(parcel(as_text, None)).requests[0].identifiers == (Identifier(type="customer_id", format="raw", value="c-1"),)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_one_line_end_after_an_iab_token_is_tolerated(end: bytes) -> None:
    token = s.iab()
    assert accept(parcel(token + end, None)).requests == accept(parcel(token, None)).requests
    assert refusal(parcel(token + end + b"\n", None))[0] == "invalid_token"
    assert refusal(parcel(s.iab(identity=s.token(s.identity_claims(), s.PUBLISHER) + end), None))[0] == "invalid_token"


def _second(seconds: int) -> int:
    return int(NOW.timestamp()) + seconds


IAB_REFUSALS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "stranger's request": (lambda: s.iab(sender=s.STRANGER), "unknown_issuer", 2),
    "another's name": (lambda: s.iab(sender=s.PUBLISHER), "issuer_mismatch", 2),
    "stranger's identity": (lambda: s.iab(identity=s.token(s.identity_claims(), s.STRANGER)), "unknown_issuer", 2),
    "identity in another's name": (lambda: s.iab(identity=s.token(s.identity_claims(iss=s.VENDOR), s.PUBLISHER)), "issuer_mismatch", 2),
    "identity that is none": (lambda: s.iab(identity=b"a.b.c"), "invalid_token", 3),
    "future": (lambda: s.iab(iat=_second(60)), "issued_in_future", 6),
    "not yet": (lambda: s.iab(nbf=_second(60)), "issued_in_future", 6),
    "expired": (lambda: s.iab(exp=_second(0)), "expired", 6),
    "older than its identity": (lambda: s.iab(iat=_second(-61)), "bad_order", 6),
    "version": (lambda: s.iab(version="2.0"), "bad_field", 1),
    "unknown claim": (lambda: s.iab(aud="us"), "bad_field", 1),
    "fraction": (lambda: s.iab(iat=1.5), "bad_field", 1),
    "subject as other text": (lambda: s.iab(sub="johndoe"), "bad_field", 1),
    "an identity token alone": (lambda: s.token(s.identity_claims(), s.PUBLISHER), "bad_field", 1),
    "unknown header": (lambda: s.token(s.identity_claims(), s.PUBLISHER, crit=["x"], x=1), "invalid_token", 3),
}


@pytest.mark.parametrize("name", IAB_REFUSALS)
def test_iab_refusals(name: str) -> None:
    make, reason, code = IAB_REFUSALS[name]
    found, message = refusal(parcel(make(), None))
    assert found == reason
    assert message.endswith(f"[IAB: raResultCode {code}]")


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_of_another_algorithm_is_refused(algorithm: str) -> None:
    key = None if algorithm == "none" else "public key as secret, of at least thirty-two bytes"
    content = jwt.encode(s.identity_claims(), key, algorithm=algorithm).encode()  # type: ignore[arg-type]
    assert refusal(parcel(content, None))[0] == "invalid_token"


def test_a_drop_download_is_one_request() -> None:
    lists = {
        "20260801_42_Phone.csv": f"ID,Hash\nw-1,{s.DROP_PHONE}\nw-2,{s.DROP_PHONE}\n",
        "20260801_42_Email.csv": f"ID,Hash\nw-3,{s.DROP_PHONE}\n",
        "20260801_42_MAID.csv": "ID,Hash\n",
        "20260801_42_Removed.csv": f"ID,Hash\nw-2,{s.DROP_PHONE}\n",
    }
    (request,) = accept(parcel(s.drop(lists))).requests
    assert {(found.label, found.type) for found in request.identifiers} == {("w-1", "phone"), ("w-3", "email")}
    assert (request.regulation, request.submitted_at) == ("ccpa", NOW)


_ROW = f"ID,Hash\nw-1,{s.DROP_PHONE}\n"
DROP_REFUSALS: dict[str, tuple[Callable[[], bytes], str]] = {
    "dots": (lambda: s.drop({"../Phone.csv": _ROW}), "path_escape"),
    "absolute": (lambda: s.drop({"/etc/Phone.csv": _ROW}), "path_escape"),
    "drive": (lambda: s.drop({"C:Phone.csv": _ROW}), "path_escape"),
    "folder": (lambda: s.drop({"Phone.csv/": ""}), "path_escape"),
    "no csv": (lambda: s.drop({"Phone.exe": _ROW}), "path_escape"),
    "no list": (lambda: s.drop({"Shoe.csv": _ROW}), "bad_field"),
    "two lists": (lambda: s.drop({"Phone_Email.csv": _ROW}), "bad_field"),
    "columns": (lambda: s.drop({"Phone.csv": _ROW.replace("Hash", "Value")}), "malformed"),
    "hash": (lambda: s.drop({"Phone.csv": "ID,Hash\nw-1,abc\n"}), "bad_field"),
    "id twice": (lambda: s.drop({"Phone.csv": _ROW, "Email.csv": _ROW}), "repeated_id"),
    "nobody": (lambda: s.drop({"Phone.csv": "ID,Hash\n"}), "empty_subject"),
    "empty": (lambda: s.drop({}), "archive_bomb"),
    "many files": (lambda: s.drop({f"Phone_{number}.csv": _ROW for number in range(17)}), "archive_bomb"),
    "bomb": (lambda: s.drop({"Phone.csv": "ID,Hash\n" + "0" * 1_000_000}), "archive_bomb"),
    "large": (
        lambda: s.drop({f"Phone_{n}.csv": "".join(f"w-{row},{s.DROP_PHONE}\n" for row in range(290_000)) for n in range(4)}),
        "archive_bomb",
    ),
    "bytes": (lambda: s.drop({"Phone.csv": "\0"}), "not_text"),
    "quotes": (lambda: s.drop({"Phone.csv": 'ID,Hash\n"a'}), "malformed"),
    "cut": (lambda: s.drop()[:-4], "malformed"),
    "link": (lambda: _link(), "path_escape"),
    "understated size": (lambda: _understated(), "malformed"),
}


def _link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("Phone.csv")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def _understated() -> bytes:
    content = s.drop({"Phone.csv": _ROW * 100})
    size = struct.pack("<I", len(_ROW * 100))
    assert content.count(size) == 2
    return content.replace(size, struct.pack("<I", 10))


def test_an_archive_that_understates_its_size_is_not_inflated() -> None:
    bomb = s.drop({"Phone.csv": "0" * 200_000_000})
    lying = bomb.replace(struct.pack("<I", 200_000_000), struct.pack("<I", 1000))
    assert lying != bomb
    tracemalloc.start()
    found, _ = refusal(parcel(lying))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == "malformed"
    assert peak < 10_000_000


@pytest.mark.parametrize("name", DROP_REFUSALS)
def test_drop_refusals(name: str) -> None:
    make, reason = DROP_REFUSALS[name]
    found, message = refusal(parcel(make()))
    assert found == reason
    assert message.endswith("[DROP: no response file]")


@pytest.mark.parametrize("form", ["own", "opendsr", "fides", "drop"])
def test_a_detached_signature_is_needed_and_stands_for_this_file_alone(form: Format) -> None:
    content = s.good_files()[form]
    assert refusal(parcel(content, None))[0] == "unsigned"
    assert refusal(parcel(content, s.STRANGER))[0] == "unknown_issuer"
    assert refusal(Parcel(content=content, file_name="x", signature=s.sign(b"other")))[0] == "unknown_issuer"
    assert refusal(Parcel(content=content, file_name="x", signature=b"AAAA"))[0] == "bad_signature_encoding"


@pytest.mark.parametrize("form", FORMATS)
def test_a_flipped_byte_anywhere_is_refused(form: Format) -> None:
    content, signature = s.good_files()[form], s.sign(s.good_files()[form])
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        refusal(Parcel(content=changed, file_name="x", signature=signature), form=form)
    if form in ("own", "opendsr", "fides", "drop"):
        for place in range(len(signature) - 1):
            changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
            refusal(Parcel(content=content, file_name="x", signature=changed))


def test_parts_in_another_order_are_refused() -> None:
    decoded = base64.b64decode(s.drp())
    assert refusal(parcel(base64.b64encode(decoded[64:] + decoded[:64]), None))[0] == "unknown_issuer"
    header, payload, signature = s.iab().split(b".")
    assert refusal(parcel(b".".join([payload, header, signature]), None), form="iab")[0] == "invalid_token"
    lines = s.OWN.splitlines(keepends=True)
    swapped = b"".join([lines[1], lines[0], *lines[2:]])
    assert refusal(Parcel(content=swapped, file_name="x", signature=s.sign(s.OWN)))[0] == "unknown_issuer"


def test_what_is_too_large_is_refused_unread() -> None:
    assert refusal(parcel(b"A" * 1_000_001, None))[0] == "too_large"
    assert refusal(parcel(b"PK\x03\x04" + bytes(20_000_000), None))[0] == "too_large"


# --- generated files -------------------------------------------------------------------------------------------------------------------


def _mutate(random_: random.Random, content: bytes) -> bytes:
    """A few edits: bytes flipped, cut, repeated, or tokens of trouble put in."""
    trouble = [
        b"\x00",
        b"\xff\xfe",
        b"null",
        b"-1",
        b"1e999",
        b"NaN",
        b"[" * 40,
        b"{",
        b'"',
        b",",
        b"\n",
        b"=",
        b"..",
        b"/",
        b"&a *a",
        b"!!x",
        b"\xe2\x80\xa8",
        b"9" * 5000,
    ]
    for _ in range(random_.choice((0, 1, 1, 2, 5))):
        start = random_.randrange(len(content) + 1)
        end = min(len(content), start + random_.choice((0, 1, 1, 8, 200)))
        match random_.randrange(4):
            case 0 if start < len(content):
                content = content[:start] + bytes([content[start] ^ 1 << random_.randrange(8)]) + content[start + 1 :]
            case 1:
                content = content[:start] + content[end:]
            case 2:
                content = content[:end] + content[start:]
            case _:
                content = content[:start] + random_.choice(trouble) + content[end:]
    return content


def _mutate_value(random_: random.Random, value: object) -> object:
    """The same document with some values, keys or types changed."""
    if random_.random() < 0.025:
        return random_.choice(
            [None, True, 0, -1, 2**70, 1.5, "", "x" * 5000, "\x07", "2026-13-45", "9999-12-31T23:59:59-23:59", [], {}, [[]], {"a": 1}]
        )
    if isinstance(value, dict):
        changed = {name: _mutate_value(random_, item) for name, item in value.items() if random_.random() > 0.03}
        return changed | ({random_.choice(["extra", "", "\x00", "sub", "schema"]): 1} if random_.random() < 0.03 else {})
    return [_mutate_value(random_, item) for item in value] if isinstance(value, list) else value


def _vary(random_: random.Random, value: object) -> object:
    return value if random_.random() < 0.3 else _mutate_value(random_, value)


def _generate_own(random_: random.Random) -> bytes:
    """As YAML, as JSON with some of it changed, or as CSV with some cells changed."""
    match random_.randrange(3):
        case 0:
            return s.OWN
        case 1:
            return json.dumps(_vary(random_, s.OWN_DOCUMENT)).encode()
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["request_id", "issuer", "regulation", "submitted_at", "owner_id", "sample_id"])
    for number in range(random_.choice((0, 1, 1, 2, 5))):
        row = [f"r-{number}", s.OPERATOR, "gdpr", "2026-11-24T09:00:00Z", "johanna", ""]
        writer.writerow([str(_mutate_value(random_, cell)) for cell in row[: random_.choice((6,) * 20 + (5,))]])
    return rows.getvalue().encode()


def _generate(random_: random.Random, form: Format) -> Parcel:
    """A file of that form: its document changed and signed well, or its bytes changed before or after the signature."""
    match form:
        case "drp":
            content = s.drp(_vary(random_, dict(s.DRP_MESSAGE)), random_.choice([s.AGENT, s.AGENT, s.AGENT, s.STRANGER]))  # type: ignore[arg-type]
            if random_.random() < 0.3:
                text = _mutate(random_, json.dumps(s.DRP_MESSAGE).encode())
                content = s.encode_drp(s.PRIVATE[s.AGENT].sign(text), text)
        case "iab":
            inner = s.token(_vary(random_, s.identity_claims()) or {}, s.PUBLISHER)  # type: ignore[arg-type]
            outer = _vary(random_, s.identity_claims(iss=s.VENDOR, idJWT=inner.decode()))
            content = s.token(outer, s.VENDOR)  # type: ignore[arg-type]
        case "drop":
            rows = io.StringIO()
            writer = csv.writer(rows)
            writer.writerow(["ID", "Hash"])
            for number in range(random_.randrange(4)):
                writer.writerow([random_.choice([f"w-{number}"] * 12 + ["", "a b", "x"]), random_.choice([s.DROP_PHONE] * 12 + ["", "zz"])])
            text = rows.getvalue()
            text = _mutate(random_, text.encode()).decode(errors="replace") if random_.random() < 0.3 else text
            name = random_.choice(["Phone.csv"] * 6 + ["Email.csv", "Removed.csv", "../Phone.csv", "x", "NDZ.csv/"])
            content = s.drop({name: text})
        case "fides":
            content = json.dumps([_vary(random_, dict(s.FIDES_ENTRY)) for _ in range(random_.choice((0, 1, 1, 2, 51)))]).encode()
        case "opendsr":
            content = json.dumps(_vary(random_, json.loads(s.OPENDSR_EXAMPLE))).encode()
        case "own":
            content = _generate_own(random_)
    is_before = random_.random() < 0.5
    content = _mutate(random_, content) if is_before and random_.random() < 0.6 else content
    signature = random_.choice([s.sign(content), s.sign(content), s.sign(content), _mutate(random_, s.sign(content)), None])
    content = content if is_before or random_.random() < 0.5 else _mutate(random_, content)
    return Parcel(content=content, file_name=f"request.{form}", signature=signature)


@pytest.mark.parametrize("num", [2_400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_generated_files_get_a_decision_or_one_line(num: int) -> None:
    random_ = random.Random(5)
    told: Counter[tuple[Format, str]] = Counter()
    messages: set[str] = set()
    for number in range(num):
        form = FORMATS[number % len(FORMATS)]
        given = _generate(random_, form)
        try:
            accepted = judge(given, s.KEYS, business=s.BUSINESS, now=NOW, form=form if random_.random() < 0.3 else None)
        except RequestRefusedError as error:
            messages.add(str(error))
            told[form, error.reason] += 1
        else:
            assert accepted.requests
            told[form, "accepted"] += 1
    assert [message for message in messages if not message.isprintable() or len(message) > 1000] == []
    # The generator reaches behind the signature, in every form, to both decisions.
    for form in FORMATS:
        assert told[form, "accepted"] > num / 400, told
        assert sum(count for (which, reason), count in told.items() if which == form and reason in ("bad_field", "malformed")) > num / 400
