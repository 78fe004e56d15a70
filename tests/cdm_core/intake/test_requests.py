"""Deletion requests: the forms we accept, and one clear line for everything else."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import RequestRefusedError
from cdm_core.intake.requests import MAX_REQUEST_BYTES, DeletionRequest, Syntax, check_size, parse_request

SAMPLE = "ab" * 32
OTHER_SAMPLE = "0" * 63 + "1"

YAML = f"""\
schema: lethe/deletion-request/v1
request_id: 7f9c1c5e-0001           # the same id, the same request
issuer: owner:johanna
regulation: gdpr
submitted_at: 2026-11-24T10:00:00+01:00
subject:
  owner_ids: [johanna, ada, johanna]
  sample_ids: [sha256:{SAMPLE.upper()}, {SAMPLE}]
  image_files: [mine/logo.png]
  captions_like: null
reason: withdrawn consent
""".encode()

DOCUMENT: dict[str, object] = {
    "schema": "lethe/deletion-request/v1",
    "request_id": "r-1",
    "issuer": "owner:johanna",
    "regulation": "ccpa",
    "submitted_at": "2026-11-24T09:00:00Z",
    "subject": {"owner_ids": ["johanna"]},
}

CSV = f"""\
request_id,issuer,regulation,submitted_at,owner_id,sample_id
r-2,agency,gdpr,2026-11-24T09:00:00Z,johanna,
r-1,agency,ccpa,2026-11-25T09:00:00Z,,sha256:{SAMPLE}

r-2,agency,gdpr,2026-11-24T09:00:00Z,ada,{OTHER_SAMPLE}
""".encode()


def altered(**changes: object) -> bytes:
    """The JSON document with fields replaced; ... removes one."""
    document = {**DOCUMENT, **changes}
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


def with_subject(**subject: object) -> bytes:
    return altered(subject=subject)


def test_yaml_form() -> None:
    assert parse_request(YAML, "request.yaml") == [
        DeletionRequest(
            request_id="7f9c1c5e-0001",
            issuer="owner:johanna",
            regulation="gdpr",
            submitted_at=datetime(2026, 11, 24, 9, tzinfo=UTC),
            owner_ids=("ada", "johanna"),
            sample_ids=(SAMPLE,),
            image_files=("mine/logo.png",),
            captions_like=None,
            reason="withdrawn consent",
        )
    ]


def test_yaml_ids_stay_text() -> None:
    content = YAML.replace(b"7f9c1c5e-0001", b"007").replace(b"[johanna, ada, johanna]", b"[no, 0x10]")
    (request,) = parse_request(content, "request.yml")
    assert (request.request_id, request.owner_ids) == ("007", ("0x10", "no"))


def test_json_form() -> None:
    (request,) = parse_request(altered(), "request.json")
    assert (request.request_id, request.owner_ids, request.sample_ids, request.reason) == ("r-1", ("johanna",), (), None)


def test_csv_form() -> None:
    for content in (CSV, b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n")):
        second, first = parse_request(content, "bulk.CSV")
        assert (second.request_id, second.owner_ids, second.sample_ids) == ("r-2", ("ada", "johanna"), (OTHER_SAMPLE,))
        assert (first.request_id, first.owner_ids, first.sample_ids) == ("r-1", (), (SAMPLE,))
        assert (first.regulation, first.submitted_at) == ("ccpa", datetime(2026, 11, 25, 9, tzinfo=UTC))


@pytest.mark.parametrize("content", [YAML, altered(), CSV])
def test_without_a_known_suffix_the_content_decides(content: bytes) -> None:
    assert parse_request(content, "request")[0].owner_ids


COMMENTED = b"# Withdrawal of 24 November, by mail\n" + YAML
FLOW = b"{schema: lethe/deletion-request/v1, request_id: r-1, issuer: i, regulation: gdpr, submitted_at: 2026-11-24T09:00:00Z, " + (
    b"subject: {owner_ids: [johanna]}}"
)


@pytest.mark.parametrize("content", [COMMENTED, FLOW, b"\xef\xbb\xbf" + CSV])
def test_neither_a_comment_with_a_comma_nor_yamls_braces_mislead(content: bytes) -> None:
    assert parse_request(content, "request")[0].owner_ids


@pytest.mark.parametrize(("content", "syntax"), [(YAML, "yaml"), (altered(), "json"), (CSV, "csv")])
def test_a_syntax_that_is_known_counts_and_no_suffix(content: bytes, syntax: Syntax) -> None:
    for name in ("case-12.json", "2026-11-24.csv", "batch.yaml", "r-1"):
        assert parse_request(content, name, syntax)[0].owner_ids


def test_pictures_keep_the_order_of_the_file() -> None:
    (request,) = parse_request(with_subject(image_files=["b.png", "a.png"]), "request.json")
    assert request.image_files == ("b.png", "a.png")


def test_a_request_shows_no_names() -> None:
    (request,) = parse_request(YAML, "request.yaml")
    assert repr(request).startswith("DeletionRequest(request_id='7f9c1c5e-0001', regulation='gdpr'")
    assert not any(word in repr(request) for word in ("johanna", "logo", "consent", SAMPLE))


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (altered(schema="lethe/deletion-request/v2"), "bad_field", "schema: Input should be 'lethe/deletion-request/v1'"),
        (altered(request_id=...), "bad_field", "request_id: Field required"),
        (altered(request_id=7), "bad_field", "request_id: Input should be a valid string"),
        (altered(request_id="a/b"), "bad_field", "request_id: String should match pattern"),
        (altered(request_id=""), "bad_field", "request_id: "),
        (altered(request_id="a\n"), "bad_field", "request_id: "),
        (altered(request_id="a" * 129), "bad_field", "request_id: "),
        (altered(issuer=""), "bad_field", "issuer: "),
        (altered(issuer="a\nb"), "bad_field", "issuer: holds a control character"),
        (altered(regulation="dsgvo"), "bad_field", "regulation: Input should be 'gdpr', 'ccpa', 'contract' or 'voluntary'"),
        (altered(submitted_at="yesterday"), "bad_field", "submitted_at: must be a date and time with its zone"),
        (altered(submitted_at="2026-11-24T09:00:00"), "bad_field", "submitted_at: must be a date and time with its zone"),
        (altered(submitted_at="0001-01-01T00:00:00+23:00"), "bad_field", "submitted_at: must be a date and time with its zone"),
        (altered(submitted_at=1), "bad_field", "submitted_at: must be a date and time as text"),
        (altered(subject=...), "bad_field", "subject: Field required"),
        (altered(subject=None), "bad_field", "subject: "),
        (altered(subject={}), "empty_subject", "subject: names nothing to forget"),
        (with_subject(owner_ids=[]), "empty_subject", "subject: names nothing to forget"),
        (with_subject(owner_ids="johanna"), "bad_field", "subject.owner_ids: Input should be a valid list"),
        (with_subject(owner_ids=[7]), "bad_field", "subject.owner_ids.0: Input should be a valid string"),
        (with_subject(owner_ids=["a", ""]), "bad_field", "subject.owner_ids.1: "),
        (with_subject(owner_ids=["\ud800"]), "bad_field", "subject.owner_ids.0: "),
        (with_subject(owner_ids=["a\0"]), "bad_field", "subject.owner_ids.0: holds a control character"),
        (with_subject(sample_ids=["ab"]), "bad_field", "subject.sample_ids.0: must be a SHA-256 of 64 hexadecimal digits"),
        (with_subject(sample_ids=[SAMPLE + "\n"]), "bad_field", "subject.sample_ids.0: must be a SHA-256"),
        (with_subject(owner_ids=["a"], captions_like="cat"), "unsupported", "subject.captions_like: not supported yet: "),
        (with_subject(owner_ids=["a"], name="b"), "bad_field", "subject.name: Extra inputs are not permitted"),
        (altered(extra=1), "bad_field", "extra: Extra inputs are not permitted"),
        (altered(reason="x" * 10_001), "bad_field", "reason: String should have at most 10000 characters"),
        (b"[]", "bad_field", "document: "),
        (b"", "malformed", "not JSON: "),
        (b'{"a": NaN}', "malformed", "NaN is not a JSON number"),
        (b"\xff\xfe{}", "not_text", "not UTF-8 at byte 0"),
        (b"{}\0", "not_text", "holds a NUL character"),
        (b" " * (MAX_REQUEST_BYTES + 1), "too_large", "1,000,001 bytes, more than the 1,000,000 of a request"),
    ],
)
def test_json_refused(content: bytes, reason: str, message: str) -> None:
    assert_refused(content, "bad.json", reason, message)


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png", "a/../../b.png", "..\\a.png", "\\\\host\\a.png", "C:a.png", "C:\\a.png", "."])
def test_image_files_stay_inside(path: str) -> None:
    assert_refused(with_subject(image_files=["a.png", path]), "bad.json", "path_escape", "subject.image_files.1: must be a relative path")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not YAML: the document is empty"),
        (b"a: &x 1\nb: *x\n", "anchors and aliases are not allowed"),
        (YAML + b"reason: again\n", "key 'reason' is given twice"),
    ],
)
def test_yaml_refused(content: bytes, message: str) -> None:
    assert_refused(content, "bad.yaml", "malformed", message)


def test_a_yaml_key_cannot_be_merged_in() -> None:
    assert_refused(YAML + b"<<: {reason: other}\n", "bad.yaml", "bad_field", "<<: Extra inputs are not permitted")


@pytest.mark.parametrize(
    ("old", "new", "reason", "message"),
    [
        (b"sample_id\n", b"sample\n", "malformed", "line 1: the columns must be request_id,issuer,"),
        (b"sample_id\n", b"owner_id\n", "malformed", "line 1: the columns must be request_id,issuer,"),
        (CSV, b"", "malformed", "line 1: the columns must be request_id,issuer,"),
        (b"johanna,\n", b"johanna\n", "malformed", "line 2: 5 columns, the header has 6"),
        (b"johanna,\n", b'"joh"anna,\n', "malformed", "line 2: not CSV: "),
        (b"johanna,\n", b'"johanna,\n', "malformed", "not CSV: "),
        (b"johanna,\n", b" ,\n", "empty_subject", "line 2: needs an owner_id or a sample_id"),
        (b"ccpa", b"law", "bad_field", "line 3: regulation: "),
        (SAMPLE.encode(), b"12", "bad_field", "line 3: subject.sample_ids.0: must be a SHA-256"),
        (b"r-1,agency", b"r-1,other", "mixed_issuers", "issuer: a file is signed by one issuer"),
        (b"r-1,agency,ccpa", b"r-2,agency,ccpa", "conflicting_rows", "line 3: regulation: differs from another row"),
        (b"r-1,agency,ccpa", b"r-2,other,gdpr", "conflicting_rows", "line 3: issuer: differs from another row"),
    ],
)
def test_csv_refused(old: bytes, new: bytes, reason: str, message: str) -> None:
    assert old in CSV
    assert_refused(CSV.replace(old, new, 1), "bad.csv", reason, message)


def test_csv_without_rows() -> None:
    assert_refused(CSV.partition(b"\n")[0], "bad.csv", "empty_subject", "holds no requests")


def test_size_is_checked_before_reading() -> None:
    check_size(MAX_REQUEST_BYTES, "big.json")
    with pytest.raises(RequestRefusedError, match=r"^big\.json: 100,000,000 bytes") as caught:
        check_size(100_000_000, "big.json")
    assert caught.value.reason == "too_large"


NAMES = st.sampled_from(["a.yaml", "a.json", "a.csv", "a"])


@given(content=st.binary(max_size=300), name=NAMES)
def test_arbitrary_bytes_are_refused(content: bytes, name: str) -> None:
    assert_parsed_or_refused(content, name)


@given(
    original=st.sampled_from([YAML, altered(reason="why"), CSV]),
    position=st.integers(0, 400),
    cut=st.integers(0, 40),
    inserted=st.one_of(st.binary(max_size=12), st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    name=NAMES,
)
def test_mutated_files_are_parsed_or_refused(original: bytes, position: int, cut: int, inserted: bytes, name: str) -> None:
    assert_parsed_or_refused(original[:position] + inserted + original[position + cut :], name)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@given(field=st.sampled_from([*DOCUMENT, "reason", "extra"]), value=JSON_VALUES)
def test_wrong_types_are_refused(field: str, value: object) -> None:
    assert_parsed_or_refused(altered(**{field: value}), "a.json")


@given(
    field=st.sampled_from(["owner_ids", "sample_ids", "image_files", "captions_like"]), value=st.one_of(JSON_VALUES, st.lists(st.text()))
)
def test_wrong_subjects_are_refused(field: str, value: object) -> None:
    assert_parsed_or_refused(with_subject(**{field: value}), "a.json")


def assert_parsed_or_refused(content: bytes, name: str) -> None:
    problem = find_problem(content, name)
    assert problem is None or (problem.startswith(f"{name}: ") and len(problem.splitlines()) == 1)


def find_problem(content: bytes, name: str) -> str | None:
    """The refusal's message; any other exception passes through and fails the test."""
    try:
        requests = parse_request(content, name)
    except RequestRefusedError as error:
        return str(error)
    assert all(request.owner_ids or request.sample_ids or request.image_files for request in requests)
    return None


def assert_refused(content: bytes, name: str, reason: str, message: str) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        parse_request(content, name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.reason == reason
