"""How a study searches: who proposes, who stops trials, when it ends, what it confirms."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stabsearch.problems import Problem, raise_problems
from stabsearch.spec.parts import NOT_TEXT, NonNegativeFloat, Part, PositiveFloat, PositiveInt


class SearcherSpec(Part):
    name: Literal["tpe", "gp", "random", "grid", "boundary"] = Field(
        "tpe",
        description="Who proposes settings. boundary: our own, which looks for the edge and the "
        "best rate below it with short trials first (docs/searching.md); tpe, gp: Optuna's "
        "models of the score; random; grid: points spread evenly over the space.",
    )
    startup_trials: PositiveInt = Field(
        10, description="tpe, gp: settings drawn at random before a model is fitted."
    )
    probe_fraction: Annotated[float, Field(ge=0.075, le=0.5, allow_inf_nan=False), NOT_TEXT] = (
        Field(
            0.1,
            description="boundary: share of max_train_steps after which a short trial has "
            "answered on which side of the edge it lies; to read the gauge it may take a quarter.",
        )
    )
    seed: Annotated[int, Field(ge=0, lt=2**32), NOT_TEXT] = Field(
        0, description="Seed of the proposals; with one worker a study repeats exactly."
    )


class SchedulerSpec(Part):
    gate: bool = Field(
        True, description="Stop a trial as soon as its own reports show that it is unstable."
    )
    gauge_octaves: PositiveFloat | None = Field(
        None,
        description="Stop a trial whose learning rate lies more than this many octaves from the "
        "best one, as the gauge reads it at gauge_fraction; null: no trial is stopped for that.",
    )
    gauge_fraction: Annotated[float, Field(ge=0.05, le=1, allow_inf_nan=False), NOT_TEXT] = Field(
        0.2, description="Share of max_train_steps at which the gauge is read."
    )
    inner: Literal["none", "asha", "median"] = Field(
        "none", description="Who stops stable trials that are behind the others."
    )
    grace_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), NOT_TEXT] = Field(
        0.25, description="Share of max_train_steps before the inner scheduler may stop a trial."
    )
    reduction_factor: Annotated[int, Field(ge=2), NOT_TEXT] = Field(
        2, description="asha: one in this many trials passes a rung."
    )


_PRECISION = re.compile(r"edge within (\d*\.?\d+) octaves?", re.IGNORECASE)


class StopSpec(Part):
    """What must be known before a search may end early."""

    edge_within_octaves: PositiveFloat = Field(
        description="Half of the 90% interval of the edge, at the recommended setting."
    )

    @model_validator(mode="before")
    @classmethod
    def _say_it_in_words(cls, value: Any) -> Any:
        """``edge within 0.25 octave`` is how people say it."""
        if isinstance(value, (dict, StopSpec)):
            return value
        found = _PRECISION.fullmatch(" ".join(str(value).split()))
        if found is not None:
            return {"edge_within_octaves": float(found[1])}
        rule, remedy = "is not a precision", "Write: edge within 0.25 octave."
        raise_problems([Problem(path=(), value=value, rule=rule, remedy=remedy)])
        return value


class ConfirmSpec(Part):
    seeds: PositiveInt = Field(
        5, description="Seeds that the recommended setting must hold under."
    )
    stress_octaves: NonNegativeFloat = Field(
        1.0,
        description="It must also hold, under as many seeds, at a learning rate this many octaves "
        "higher; 0: no such test.",
    )
