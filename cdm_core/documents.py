"""Untrusted YAML and JSON turned into plain values: text, null, lists, and mappings with text keys.

YAML is read by its failsafe schema plus null: a scalar is the text that stands there. Ids are text, and YAML's usual guesses would turn
the owner `no` into False, `007` into 7 and the sample `1e10…` into a float. Values are built from the stream of events, so that nothing
refused is ever constructed: aliases (a few lines can expand to gigabytes), tags, repeated keys, several documents, deep nesting.

JSON keeps its own types and is refused for the same faults, and for NaN and infinities, which JSON doesn't have.
"""

import json
from collections.abc import Iterator
from typing import NoReturn

import yaml
from pydantic import ValidationError

from cdm_core.digests import Json
from cdm_core.errors import InvalidInputError

MAX_DEPTH = 32

_YAML_NULLS = ("", "~", "null", "Null", "NULL")
_PARSER_TOO_DEEP = "exceeded maximum nesting depth"  # libyaml reads ahead, and since PyYAML 6.0.4 stops at 1,000 levels of its own
# libyaml parses 1 MB in a tenth of the time; PyYAML's own parser stands in where it wasn't compiled.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def decode_text(content: bytes) -> str:
    """UTF-8 text without the byte-order mark that spreadsheets write.

    Raises:
        InvalidInputError: not UTF-8, or holds a NUL.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not UTF-8 at byte {error.start}") from error
    if "\0" in text:
        raise InvalidInputError("holds a NUL character")
    return text


def load_json(text: str) -> Json:
    """The value of a JSON document.

    Raises:
        InvalidInputError: not JSON, NaN or an infinity, a key given twice, or nested too deeply.
    """
    try:
        value: Json = json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidInputError("not JSON: nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, and numbers too long to convert
        raise InvalidInputError(f"not JSON: {error}") from error
    return value


def load_yaml(text: str) -> Json:
    """The value of a YAML document whose scalars are all text or null.

    Raises:
        InvalidInputError: not YAML, or one of the features that the module refuses.
    """
    events = yaml.parse(text, Loader=_Loader)
    try:
        value = _read_document(events)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        if error.problem == _PARSER_TOO_DEEP:
            raise InvalidInputError(f"not plain YAML: line {line}: nested too deeply") from error
        raise InvalidInputError(f"not YAML: line {line}: {error.problem or 'unreadable'}") from error
    except yaml.YAMLError as error:
        raise InvalidInputError(f"not YAML: {str(error).splitlines()[0]}") from error
    finally:
        events.close()  # type: ignore[attr-defined]  # a generator, typed as an iterator
    return value


def describe_problem(error: ValidationError) -> str:
    """Where and what the first problem is, on one line, without the value that was given."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "document"
    # The name of an unknown field is the sender's text: escaped, so that the message stays one printable line.
    where = where if where.isprintable() else ascii(where)
    return f"{where:.200}: {first['msg'].removeprefix('Value error, ')}"


def _read_document(events: Iterator[yaml.Event]) -> Json:
    next(events)  # the start of the stream
    if isinstance(next(events), yaml.StreamEndEvent):
        raise InvalidInputError("not YAML: the document is empty")
    value = _read_node(events, next(events), depth=0)
    next(events)  # the end of the document
    if not isinstance(next(events), yaml.StreamEndEvent):
        raise InvalidInputError("not YAML: holds more than one document")
    return value


def _read_node(events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> Json:
    line = _find_line(event)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise InvalidInputError(f"not plain YAML: line {line}: anchors and aliases are not allowed")
    if getattr(event, "tag", None) is not None:
        raise InvalidInputError(f"not plain YAML: line {line}: tags are not allowed")
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"not plain YAML: line {line}: nested too deeply")
    if isinstance(event, yaml.ScalarEvent):
        is_plain = event.implicit[0]
        return None if is_plain and event.value in _YAML_NULLS else str(event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        return [_read_node(events, item, depth + 1) for item in _until(events, yaml.SequenceEndEvent)]
    mapping: dict[str, Json] = {}
    for key in _until(events, yaml.MappingEndEvent):
        key_line = _find_line(key)
        name = _read_node(events, key, depth + 1)
        if not isinstance(name, str):
            raise InvalidInputError(f"not plain YAML: line {key_line}: a key must be text")
        if name in mapping:
            raise InvalidInputError(f"not plain YAML: line {key_line}: key {name!r:.100} is given twice")
        mapping[name] = _read_node(events, next(events), depth + 1)
    return mapping


def _find_line(event: yaml.Event) -> int:
    """Where an event starts, counted from 1."""
    return event.start_mark.line + 1 if event.start_mark else 1


def _until(events: Iterator[yaml.Event], end: type[yaml.Event]) -> Iterator[yaml.Event]:
    """The first event of each child node; the caller consumes the rest of the child between two steps."""
    while not isinstance(event := next(events), end):
        yield event


def _unique_pairs(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    mapping: dict[str, Json] = {}
    for name, value in pairs:
        if name in mapping:
            raise ValueError(f"key {name!r:.100} is given twice")
        mapping[name] = value
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
