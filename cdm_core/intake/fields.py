"""What the forms' strict models share: a base model, and the kinds of text, id and time that they take."""

import re
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from cdm_core.digests import Json
from cdm_core.documents import decode_text, describe_problem, load_json
from cdm_core.errors import InvalidInputError, RequestRefusedError

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


class Door(BaseModel):
    """Untrusted data enters here: unknown fields are refused and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Model = TypeVar("_Model", bound=Door)


def check_text(value: str) -> str:
    """Text without control characters."""
    if _CONTROL.search(value):
        raise ValueError("holds a control character")
    return value


def parse_time(value: object) -> datetime:
    """An ISO 8601 time with its zone, in UTC."""
    if not isinstance(value, str):
        raise ValueError("must be a date and time as text")
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError("has no time zone")
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a date and time with its zone, such as 2026-11-24T09:00:00Z") from error


Text = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(check_text)]
RequestId = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9._:-]{1,128}\z")]
Time = Annotated[datetime, BeforeValidator(parse_time)]


def load_document(content: bytes, source: str) -> Json:
    """The JSON in a request's bytes.

    Raises:
        RequestRefusedError: `not_text` or `malformed`.
    """
    try:
        text = decode_text(content)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{source}: {error}", reason="not_text") from error
    try:
        return load_json(text)
    except InvalidInputError as error:
        raise RequestRefusedError(f"{source}: {error}", reason="malformed") from error


def validate(model: type[_Model], document: Json, source: str) -> _Model:
    """The document as the model has it.

    Raises:
        RequestRefusedError: `bad_field`.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RequestRefusedError(f"{source}: {describe_problem(error)}", reason="bad_field") from error
