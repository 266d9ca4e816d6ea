"""What a parameter may be searched over."""

from __future__ import annotations

import math
import random
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stabsearch.problems import (
    Problem,
    nearest,
    problems_of,
    raise_problems,
    show,
)
from stabsearch.records import ParamValue
from stabsearch.spec.parts import Float, Int, Part, scalar


class LogUniform(Part):
    """Every octave equally likely."""

    log_uniform: tuple[Float, Float] = Field(description="[low, high], both greater than 0.")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        low, high = self.log_uniform
        _check_bounds(self, low, high, is_log=True)
        return self

    @property
    def low(self) -> float:
        return self.log_uniform[0]

    @property
    def high(self) -> float:
        return self.log_uniform[1]

    def sample(self, generator: random.Random) -> ParamValue:
        value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)

    def probes(self) -> list[ParamValue]:
        """Values that any trainer field must accept if it accepts the domain."""
        return [self.low, self.low * (self.high / self.low) ** 0.381966, self.high]


class Uniform(Part):
    """Every value equally likely."""

    uniform: tuple[Float, Float] = Field(description="[low, high].")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self, *self.uniform, is_log=False)
        return self

    @property
    def low(self) -> float:
        return self.uniform[0]

    @property
    def high(self) -> float:
        return self.uniform[1]

    def sample(self, generator: random.Random) -> ParamValue:
        return min(max(generator.uniform(self.low, self.high), self.low), self.high)

    def probes(self) -> list[ParamValue]:
        return [self.low, self.low + (self.high - self.low) * 0.381966, self.high]


class IntRange(Part):
    """Whole numbers, both ends included."""

    int: tuple[Int, Int] = Field(description="[low, high], both included.")
    log: bool = Field(False, description="Every octave, not every number, equally likely.")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_bounds(self, *self.int, is_log=self.log)
        return self

    @property
    def low(self) -> Int:
        return self.int[0]

    @property
    def high(self) -> Int:
        return self.int[1]

    def sample(self, generator: random.Random) -> ParamValue:
        if not self.log:
            return generator.randint(self.low, self.high)
        value = round(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return min(max(value, self.low), self.high)

    def probes(self) -> list[ParamValue]:
        if self.high - self.low < 8:
            return list(range(self.low, self.high + 1))
        return [self.low, self.low + 1, (self.low + self.high) // 2, self.high]


class Choice(Part):
    """One of a list; the order means nothing."""

    choice: list[Annotated[ParamValue, BeforeValidator(scalar)]] = Field(
        description="At least two different values; null is one."
    )

    @field_validator("choice")
    @classmethod
    def _values_differ(cls, values: list[ParamValue]) -> list[ParamValue]:
        seen: set[tuple[bool, ParamValue]] = set()
        for value in values:
            key = (isinstance(value, bool), value)  # true is not 1
            if key in seen:
                raise_problems(
                    [
                        Problem(
                            path=(),
                            value=values,
                            rule=f"{show(value)} is there more than once",
                            remedy="List every value once.",
                        )
                    ]
                )
            seen.add(key)
        if len(values) < 2:
            remedy = (
                f"Write the value itself, {show(values[0])}, or add another."
                if values
                else "List the values to choose from, such as choice: [32, 64]."
            )
            raise_problems(
                [Problem(path=(), value=values, rule="must hold two or more", remedy=remedy)]
            )
        return values

    def sample(self, generator: random.Random) -> ParamValue:
        return generator.choice(self.choice)

    def probes(self) -> list[ParamValue]:
        return list(self.choice)


Domain = LogUniform | Uniform | IntRange | Choice
DOMAINS: dict[str, type[LogUniform] | type[Uniform] | type[IntRange] | type[Choice]] = {
    "log_uniform": LogUniform,
    "uniform": Uniform,
    "int": IntRange,
    "choice": Choice,
}


def _check_bounds(domain: Part, low: float, high: float, *, is_log: bool) -> None:
    if is_log and low <= 0:
        rule = "the low end of a log range must be greater than 0"
        example = "1" if isinstance(domain, IntRange) else "1e-6"
        other = "leave log out" if isinstance(domain, IntRange) else "Use uniform"
        remedy = f"{other[0].upper()}{other[1:]}, or a low end such as {example}."
    elif low >= high:
        rule = "the low end must be less than the high end"
        remedy = (
            f"Write the value itself, {show(low)}, if it should not be searched."
            if low == high
            else f"Swap them: [{show(high)}, {show(low)}]."
        )
    else:
        return
    raise_problems([Problem(path=(), value=domain, rule=rule, remedy=remedy)])


def parse_domain(value: Any) -> Any:
    """Choose the domain by its key, so that messages speak of that one only."""
    if isinstance(value, Domain):
        return value
    if not isinstance(value, (dict, list, tuple)):
        return scalar(value)
    kinds = [key for key in DOMAINS if isinstance(value, dict) and key in value]
    if isinstance(value, dict) and len(kinds) == 1:
        domain = DOMAINS[kinds[0]]
        try:
            return domain.model_validate(value)
        except ValidationError as error:
            raise_problems(problems_of(error, domain))
    if len(kinds) > 1:
        rule, remedy = "names two domains", f"Keep one of {', '.join(kinds)}."
    elif isinstance(value, dict):
        rule = f"is not a domain: those are {', '.join(DOMAINS)}"
        near = [found for key in value if (found := nearest(str(key), DOMAINS))]
        remedy = (
            f"Did you mean {near[0]}?"
            if near
            else "Write for example {log_uniform: [1e-4, 0.1]}; a nested field is written with a "
            "dot, such as model.width."
        )
    else:
        rule = "a list is neither a domain nor a constant"
        remedy = f"Write {{choice: {show(list(value))}}} to choose from these."
    raise_problems([Problem(path=(), value=value, rule=rule, remedy=remedy)])
    raise AssertionError("raise_problems returned")  # pragma: no cover
