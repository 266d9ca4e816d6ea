"""Who judges the trials of a study, and by which thresholds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from stabsearch.problems import JOINT_RULE, NOTHING, Problem, did_you_mean, raise_problems
from stabsearch.spec.parts import NOT_TEXT, Part
from stabsearch.thresholds import THRESHOLDS

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
                    remedy=did_you_mean(str(name), THRESHOLDS),
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
