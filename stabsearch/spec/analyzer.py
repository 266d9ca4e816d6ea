"""Who judges the trials of a study, and by which thresholds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from stabsearch.problems import JOINT_RULE, NOTHING, Problem, did_you_mean, raise_problems, show
from stabsearch.spec.parts import NOT_TEXT, Part
from stabsearch.thresholds import BARS, THRESHOLDS, Bars, Preset, of_same_rule, resolve

JudgeName = Literal["rules", "chapter", "lightning", "llm_foundry", "olmo", "olmo_core", "zclip"]


class AnalyzerSpec(Part):
    name: JudgeName = Field(
        "rules",
        description="rules: those of docs/rules.md; the others are published rules, to compare "
        "with.",
    )
    preset: Literal["strict", "default", "lenient"] = Field(
        "default", description="Thresholds of the rules: speak earlier, or later."
    )
    thresholds: dict[str, Annotated[float, Field(allow_inf_nan=False), NOT_TEXT]] = Field(
        default_factory=dict,
        description="Single thresholds, by their names in docs/rules.md, over the preset's.",
    )

    @field_validator("thresholds", mode="before")
    @classmethod
    def _names_are_known(cls, thresholds: Any) -> Any:
        if isinstance(thresholds, dict):
            raise_problems(
                Problem(
                    path=(str(name),),
                    value=NOTHING,
                    rule="unknown threshold",
                    remedy=_known_threshold(str(name)),
                )
                for name in thresholds
                if name not in THRESHOLDS
            )
        return thresholds

    @model_validator(mode="after")
    def _only_rules_have_thresholds(self) -> Self:
        if self.name != "rules" and (self.thresholds or self.preset != "default"):
            problem = Problem(
                path=("name",),
                value=self.name,
                rule="presets and thresholds are those of the rules",
                remedy="Remove preset and thresholds, or set name: rules.",
            )
            raise_problems([problem], JOINT_RULE)
        return self

    @model_validator(mode="after")
    def _thresholds_mean_something(self) -> Self:
        raise_problems(
            threshold_problems(self.preset, self.thresholds, self.thresholds), JOINT_RULE
        )
        return self


def _known_threshold(name: str) -> str:
    """Of the rule that it names, if that has any."""
    rule = name.partition(".")[0]
    return did_you_mean(name, of_same_rule(name) or THRESHOLDS, f"thresholds of {rule}")


def threshold_problems(
    preset: str, changes: Mapping[str, float], asked: Collection[str]
) -> Iterator[Problem]:
    """What is wrong with the thresholds of a preset and ``changes`` to them, known by name.

    ``asked``: those of the changes that are looked at; only what they break is told.
    """
    outside = [
        problem for name in asked for problem in _out_of_range(("thresholds", name), changes[name])
    ]
    yield from outside
    limits = resolve(preset, changes)
    told = {problem.path[-1] for problem in outside}
    for bars in BARS:
        named = [name for name in (bars.mild, bars.severe) if name in asked]
        if named and told.isdisjoint(named) and bars.is_crossed(limits):
            yield _crossed(bars, named[0], limits, preset, changes)


def _out_of_range(path: tuple[str, str], value: float) -> Iterator[Problem]:
    row = THRESHOLDS[path[-1]]
    low, high = row.low, row.high
    if low <= value <= high:
        return
    if value < low:
        rule, remedy = f"must be at least {show(low)}", f"Use {show(low)} or more"
    else:
        rule, remedy = f"must be at most {show(high)}", f"Use {show(high)} or less"
    yield Problem(
        path=path,
        value=value,
        rule=f"{rule}: {row.meaning}",
        remedy=f"{remedy}; the default is {show(row.default)}.",
    )


def _crossed(
    bars: Bars, name: str, limits: Mapping[str, float], preset: str, changes: Mapping[str, float]
) -> Problem:
    """``name``: the one of the bars that is to blame."""
    is_mild = name == bars.mild
    other = bars.severe if is_mild else bars.mild
    is_above = is_mild is bars.rises
    origin = "" if other in changes else f", preset {preset}" if preset != Preset.DEFAULT else ""
    rule = (
        f"must not be {'above' if is_above else 'below'} {other} ({show(limits[other])}{origin}): "
        f"{bars.mild} is the milder finding, and comes first"
    )
    own, sides = show(limits[name]), ("less", "more") if is_above else ("more", "less")
    remedy = (
        f"Use {show(limits[other])} or {sides[0]}, or set {other} to {own} or {sides[1]}, too."
    )
    return Problem(path=("thresholds", name), value=limits[name], rule=rule, remedy=remedy)
