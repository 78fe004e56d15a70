"""Untrusted YAML and JSON: what comes through as plain values, and what doesn't."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from cdm_core.documents import MAX_DEPTH, decode_text, describe_problem, load_json, load_yaml
from cdm_core.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: [no, 007, 1e10, 2026-11-24, .nan, 'null']", {"a": ["no", "007", "1e10", "2026-11-24", ".nan", "null"]}),
        ("a: null\nb: ~\nc:\n", {"a": None, "b": None, "c": None}),
        ("- [x, {y: z}]\n- |\n  two\n  lines\n", [["x", {"y": "z"}], "two\nlines\n"]),
        ("--- # comment\n7\n", "7"),
        ('{"json": ["is", "YAML"]}', {"json": ["is", "YAML"]}),
    ],
)
def test_yaml_scalars_are_the_text_that_stands_there(text: str, value: object) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the document is empty"),
        ("# only a comment\n", "the document is empty"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
        ("a: &x [1]\nb: *x\n", "line 1: anchors and aliases are not allowed"),
        ("a: 1\nb: *x\n", "line 2: anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system [id]\n", "line 1: tags are not allowed"),
        ("a: !!int 5\n", "tags are not allowed"),
        ("a: 1\na: 2\n", "line 2: key 'a' is given twice"),
        ("? [a]\n: 1\n", "a key must be text"),
        ("~: 1\n", "a key must be text"),
        ("[" * (MAX_DEPTH + 2), "nested too deeply"),
        ("[" * 500_000, "nested too deeply"),
        ("- " * 2_000 + "x", "nested too deeply"),
        ("a: [1\nb: 2\n", "not YAML: line 2: "),
        ("a: \x01\n", "not YAML: "),
        ("\tx: y", "not YAML: line 1: "),
    ],
)
def test_yaml_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_yaml(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("-Infinity", "-Infinity is not a JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5_000, "not JSON: "),
    ],
)
def test_json_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_json(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_keeps_its_types() -> None:
    assert load_json('{"a": [1, "1", null, true]}') == {"a": [1, "1", None, True]}


def test_text() -> None:
    assert decode_text(b"\xef\xbb\xbfhead") == "head"
    with pytest.raises(InvalidInputError, match=r"not UTF-8 at byte 2"):
        decode_text(b"ab\xff")
    with pytest.raises(InvalidInputError, match=r"holds a NUL character"):
        decode_text(b"a\0b")


def test_a_described_problem_is_one_line_and_holds_no_value() -> None:
    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")
        number: int = 0

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"number": "secret"})
    assert describe_problem(caught.value).startswith("number: Input should be a valid integer")
    assert "secret" not in describe_problem(caught.value)
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"a\nb": 1})
    assert describe_problem(caught.value) == "'a\\nb': Extra inputs are not permitted"


@given(st.text())
def test_arbitrary_text_gives_a_value_or_our_error(text: str) -> None:
    for load in (load_yaml, load_json):
        with suppress(InvalidInputError):
            load(text)
