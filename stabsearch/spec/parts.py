"""The base of every section, and the kinds of numbers that fields hold."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import PydanticKnownError

from stabsearch.problems import (
    Problem,
    raise_problems,
)


def _not_text(value: Any) -> Any:
    """pydantic would read ``true`` as 1 and ``"1"`` as 1: both are mistakes in a study."""
    if isinstance(value, (bool, str)):
        raise PydanticKnownError("float_type")
    return value


NOT_TEXT = BeforeValidator(_not_text)  # outermost, so that the bounds stay in the JSON schema
Int = Annotated[int, NOT_TEXT]
Float = Annotated[float, Field(allow_inf_nan=False), NOT_TEXT]
PositiveInt = Annotated[int, Field(ge=1), NOT_TEXT]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), NOT_TEXT]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), NOT_TEXT]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NOT_TEXT]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), NOT_TEXT]


def _norm_type(value: Any) -> Any:
    return math.inf if value == "inf" else _not_text(value)


NormType = Annotated[
    float,
    Field(ge=1),
    BeforeValidator(_norm_type),
    PlainSerializer(lambda value: "inf" if math.isinf(value) else value),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 1}, {"const": "inf"}]}),
]
"""p of a p-norm. Written as text where it is infinite: JSON has no infinity."""


def scalar(value: Any) -> Any:
    """Refuse what YAML can write but a setting cannot hold: lists, mappings, dates."""
    if value is not None and not isinstance(value, (bool, int, float, str)):
        rule = "must be a number, text, true, false or null"
        remedy = "Quote it if text is meant."
        raise_problems([Problem(path=(), value=value, rule=rule, remedy=remedy)])
    return value


class Part(BaseModel):
    """Base of every section: unknown fields are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
