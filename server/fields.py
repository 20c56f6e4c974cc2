"""The types of the fields of a body: strict, and with errors that name one culprit."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

MAX_INT32 = 2**31 - 1
MAX_LISTED = 1024
_MAX_PROMPTS = 2048
_MAX_STOPS = 16


class Only:
    """Marks a parameter that has no effect yet: refused unless it asks for nothing."""

    def __init__(self, *neutral: object) -> None:
        self._neutral = (None, *neutral)

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": list(self._neutral)}

    def _check(self, value: object) -> object:
        if value not in self._neutral:
            raise PydanticCustomError("unsupported_parameter", "it is not supported yet")
        return value


def _kind_of(value: object) -> str | None:
    """Which member of a union a value is meant to be, so that errors speak of that one alone."""
    first = value[0] if isinstance(value, list) and value else None
    match value, first:
        case str(), _:
            return "<text>"
        case list(), str():
            return "<texts>"
        case list(), list():
            return "<token_lists>"
        case list(), dict():
            return "<parts>"
        case list(), _:
            return "<tokens>"
    return None


def union(expected: str) -> Any:
    return Discriminator(
        _kind_of, custom_error_type="invalid_type", custom_error_message=f"expected {expected}"
    )


def _check_unicode(value: str) -> str:
    """JSON can spell half a surrogate pair, which is no text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("invalid_unicode", "it holds half a surrogate pair") from None
    return value


Int = Annotated[int, Field(strict=True)]
Float = Annotated[float, Field(strict=True)]
Bool = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True), AfterValidator(_check_unicode)]
TokenId = Annotated[Int, Field(ge=0, le=MAX_INT32)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]

LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^\d{1,10}$")], Annotated[Float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_LISTED),
]

Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(max_length=_MAX_PROMPTS), Tag("<texts>")]
    | Annotated[TokenIds, Tag("<tokens>")]
    | Annotated[list[TokenIds], Field(max_length=_MAX_PROMPTS), Tag("<token_lists>")],
    union("a string, a list of strings, a list of token ids or a list of such lists"),
]
ShortText = Annotated[
    str, Field(strict=True, min_length=1, max_length=256), AfterValidator(_check_unicode)
]
Stop = Annotated[
    Annotated[ShortText, Tag("<text>")]
    | Annotated[list[ShortText], Field(max_length=_MAX_STOPS), Tag("<texts>")]
    | Annotated[list[ShortText], Tag("<tokens>")],  # an empty list, or a mistake
    union("a string or a list of strings"),
]
