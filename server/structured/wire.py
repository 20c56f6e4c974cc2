"""The fields that ask for structured output, under OpenAI's, vLLM's and its older names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from qoq.server.fields import Bool, Text

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAX_CHOICES = 4096

Choices = Annotated[list[Text], Field(min_length=1, max_length=_MAX_CHOICES)]
Schema = dict[str, Any] | Text


class JsonSchema(BaseModel):
    model_config = _STRICT

    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    # Not `schema`, which pydantic has a method of.
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: Bool | None = None


class ResponseFormat(BaseModel):
    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "invalid_value", "json_schema goes with type json_schema, and only with that"
            )
        return self


class StructuredOutputs(BaseModel):
    """Exactly one of the fields."""

    model_config = _STRICT

    json_: Schema | None = Field(default=None, alias="json")
    json_object: Literal[True] | None = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None

    @model_validator(mode="after")
    def _check_one(self) -> StructuredOutputs:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise PydanticCustomError(
                "invalid_value", "give one of json, json_object, regex, choice and grammar"
            )
        return self


class StructuredBody(BaseModel):
    """A body that may ask for structured output, once."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
