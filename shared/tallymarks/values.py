"""The value types of the contract: what a text, an amount, an instant may be, and how each is written in JSON."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tallymarks import limits

_AMOUNT_TEXT = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,4})?", re.ASCII)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-5][0-9])", re.ASCII
)
_NO_INSTANT = "must be an RFC 3339 date-time with an offset, such as 2026-02-28T09:30:00.000Z"


_set = object.__setattr__


class Model(BaseModel):
    """A frozen value; camelCase in JSON and nowhere else, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        # A shared definition would otherwise carry the docstring of the first model that used it.
        use_attribute_docstrings=True,
    )

    @classmethod
    def built(cls, **fields: object) -> Self:
        """Make a value of all of its fields, which are known to be right: nothing is looked at.

        As `model_construct` does, in a third of its time: that looks for the default and the aliases of each field.
        """
        value = cls.__new__(cls)
        _set(value, "__dict__", fields)
        _set(value, "__pydantic_fields_set__", set(fields))
        _set(value, "__pydantic_extra__", None)
        _set(value, "__pydantic_private__", None)
        return value


def _without_nul(value: str) -> str:
    """PostgreSQL stores no NUL in a text (what has no UTF-8 form pydantic refuses)."""
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


def _not_nil(value: UUID) -> UUID:
    """The nil uuid stands for "before all others" when a listing begins."""
    if value.int == 0:
        raise ValueError("must not be the nil UUID")
    return value


Id = Annotated[UUID, AfterValidator(_not_nil)]
"""An id that a caller gives."""

Text = Annotated[
    str,
    StringConstraints(strict=True, max_length=limits.TEXT_LENGTH_MAX),
    AfterValidator(_without_nul),
    Field(json_schema_extra={"pattern": "^[^\\u0000]*$"}),
]
"""Up to 256 characters, no NUL."""

RequiredText = Annotated[Text, StringConstraints(min_length=1)]

LongText = Annotated[
    str,
    StringConstraints(strict=True, max_length=limits.DESCRIPTION_LENGTH_MAX),
    AfterValidator(_without_nul),
    Field(json_schema_extra={"pattern": "^[^\\u0000]*$"}),
]
"""Up to 2,000 characters, no NUL."""

ExpressionText = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=limits.EXPRESSION_LENGTH_MAX),
    AfterValidator(_without_nul),
    Field(json_schema_extra={"pattern": "^[^\\u0000]*$"}),
]
"""Up to 1,000 characters, no NUL; whether it is an expression is told where a rule is looked at as a whole."""

EmailAddress = Annotated[
    str,
    StringConstraints(
        strict=True,
        max_length=limits.EMAIL_ADDRESS_LENGTH_MAX,
        pattern=r"^[^@\s\x00]+@[^@\s\x00]+$",
    ),
    AfterValidator(_without_nul),
]
"""One `@` with something on both sides: whether it can be reached only a message to it can tell."""


def parse_instant(value: object) -> object:
    """Turn an RFC 3339 text with an offset into an aware UTC datetime, cut to whole milliseconds.

    Raises:
        ValueError: no offset, another notation, a date that does not exist, or outside 1900 to 2200.
    """
    if isinstance(value, str):
        return _read_instant(value)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(_NO_INSTANT)
    return _in_range(value)


@lru_cache(maxsize=1_000)
def _read_instant(text: str) -> datetime:
    """Read an instant; events that were accepted together have the same."""
    if not _RFC_3339.fullmatch(text):
        raise ValueError(_NO_INSTANT)
    return _in_range(datetime.fromisoformat(text.upper()))


def _in_range(value: datetime) -> datetime:
    # Compared before the conversion: one at the end of the calendar cannot be converted.
    if not limits.INSTANT_MIN <= value <= limits.INSTANT_MAX:
        raise ValueError("must be between the years 1900 and 2200")
    value = value.astimezone(UTC)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


@lru_cache(maxsize=1_000)
def format_instant(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`, as every answer gives it.

    An event's createdAt is written with the event, with the points event that follows, and under the check sum.
    """
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    BeforeValidator(parse_instant),
    PlainSerializer(format_instant, return_type=str, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-02-28T09:30:00.000Z"]}),
]


def parse_amount(value: object) -> object:
    """Read a decimal exactly, from a JSON number (arrives as Decimal or int) or from a text.

    Raises:
        ValueError: not a plain decimal, over 12 digits before the point or over 4 after it.
    """
    if isinstance(value, str):
        if not _AMOUNT_TEXT.fullmatch(value):
            raise ValueError("must be a decimal with at most 12 digits before the point and 4 after it")
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise ValueError("must be a decimal, as a JSON number or a string")  # noqa: TRY004 - what pydantic reports
    value = Decimal(value)
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -limits.AMOUNT_DIGITS_AFTER_POINT_MAX:
        raise ValueError("must have at most 4 digits after the point")
    if abs(value) >= 10**limits.AMOUNT_DIGITS_BEFORE_POINT_MAX:
        raise ValueError("must have at most 12 digits before the point")
    return value


def format_amount(value: Decimal) -> str:
    """Never with an exponent."""
    return format(value, "f")


_AMOUNT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": "^-?[0-9]{1,12}(\\.[0-9]{1,4})?$"},
        {"type": "number", "exclusiveMinimum": -(10**12), "exclusiveMaximum": 10**12},
    ],
    "examples": ["19.99"],
}

Amount = Annotated[
    Decimal,
    BeforeValidator(parse_amount),
    PlainSerializer(format_amount, return_type=str, when_used="json-unless-none"),
    WithJsonSchema(_AMOUNT_SCHEMA, mode="validation"),
]
"""An exact decimal, at most 12 digits before and 4 after the point; answered as a string."""


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must not be zero")
    return value


_RATE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": "^[0-9]{1,12}(\\.[0-9]{1,4})?$"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": limits.RATE_MAX},
    ],
    "examples": ["1.5"],
}

_POSITIVE_AMOUNT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": "^[0-9]{1,12}(\\.[0-9]{1,4})?$"},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10**12},
    ],
    "examples": ["19.99"],
}

PositiveAmount = Annotated[Amount, Field(gt=0), WithJsonSchema(_POSITIVE_AMOUNT_SCHEMA, mode="validation")]
Rate = Annotated[Amount, Field(gt=0, le=limits.RATE_MAX), WithJsonSchema(_RATE_SCHEMA, mode="validation")]
Points = Annotated[int, Field(strict=True, ge=-limits.POINTS_MAX, le=limits.POINTS_MAX)]
PointsMoved = Annotated[Points, AfterValidator(_not_zero), Field(json_schema_extra={"not": {"const": 0}})]
Count = Annotated[int, Field(strict=True, ge=0, le=limits.COUNT_MAX)]
Flag = Annotated[bool, Field(strict=True)]


class Attribute(Model):
    """A key with a value. `name` is another spelling of `key`: a caller may send either, an answer carries both."""

    key: RequiredText
    name: RequiredText
    value: Text

    @model_validator(mode="before")
    @classmethod
    def _fill_the_other_spelling(cls, given: object) -> object:
        if isinstance(given, dict):
            key = given.get("key", given.get("name"))
            name = given.get("name", key)
            if key != name:
                raise ValueError("key and name must be equal where both are given")
            if key is not None:
                return {**given, "key": key, "name": name}
        return given

    @classmethod
    def __get_pydantic_json_schema__(cls, form: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(form)
        if handler.mode == "validation":
            described = handler.resolve_ref_schema(schema)
            described["required"] = ["value"]
            described["anyOf"] = [{"required": ["key"]}, {"required": ["name"]}]
        return schema


Attributes = Annotated[tuple[Attribute, ...], Field(max_length=limits.ATTRIBUTES_MAX, fail_fast=True)]
"""Lists stop at their first wrong element: a body full of them is not worth an error each."""
