"""A Recommendation in plain text, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from stabsearch.recommend.space import LEARNING_RATE
from stabsearch.records import Edge, Params, ParamValue, Recommendation, Symptom

LABEL_WIDTH = 16

SYMPTOM_WORDS = {
    Symptom.NON_FINITE: "turned NaN or infinite",
    Symptom.LOST_PROGRESS: "lost progress",
    Symptom.WORSE_THAN_TRIVIAL: "worse than a constant prediction",
    Symptom.CATASTROPHIC_EXCURSION: "catastrophic excursion",
    Symptom.NOT_LEARNING: "did not learn",
}
"""Every symptom as the end of "the trial ..."; figures use the same words."""


def describe(recommendation: Recommendation, trials: pd.DataFrame | None = None) -> str:
    """The final answer of a study, a labelled line per fact.

    ``trials`` (``Results.trials``) adds why the other settings failed, and what pruning saved.
    """
    lines: list[tuple[str, str]] = [("RECOMMENDED", _recommended(recommendation))]
    lines += _stable_region(recommendation)
    lines += _edge(recommendation)
    if trials is not None:
        lines += [("WHY OTHERS FAIL", text) for text in _failures(trials)]
    lines += _tuner(recommendation)
    lines += _pruning(recommendation, trials)
    lines += [("NOTES", note) for note in recommendation.notes]
    return "\n".join(_labelled(lines))


def to_json(recommendation: Recommendation) -> dict[str, Any]:
    """The record as a dict of plain values, for ``json.dumps``; absent numbers are None."""
    return {name: _finite(value) for name, value in asdict(recommendation).items()}


def rate(value: float) -> str:
    """A learning rate: ``2.4e-04``, ``1e-02``."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{exponent}"


def number(value: ParamValue) -> str:
    """``0.25``, ``1.0``, ``52``, and like a rate if tiny or huge; null is ``none``."""
    if value is None:
        return "none"
    if isinstance(value, bool | str | int):
        return str(value)
    if value != 0 and not 1e-2 <= abs(value) < 1e4:
        return rate(value)
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text if "." in text or abs(value) >= 10 else f"{text}.0"


def param_text(name: str, value: ParamValue) -> str:
    """A parameter's value, learning rates always with an exponent."""
    is_rate = name == LEARNING_RATE and isinstance(value, int | float)
    return rate(float(value)) if is_rate and value else number(value)


def symptom_words(symptom: str) -> str:
    """A symptom as it is stored, in words."""
    known = {member.value: words for member, words in SYMPTOM_WORDS.items()}
    return known.get(symptom, symptom.replace("_", " ") or "ended badly")


# --- the lines --------------------------------------------------------------------------------


def _recommended(answer: Recommendation) -> str:
    if answer.params is None:
        return "nothing: no setting was stable"
    seeds = f"stable in {answer.num_stable_seeds} of {answer.num_seeds} seeds"
    seeds = seeds.removesuffix("s") if answer.num_seeds == 1 else seeds
    score = f", score {answer.score:.3g}" if answer.score is not None else ""
    return f"{_setting(answer.params)}     {seeds}{score} (trial {answer.trial_id})"


def _stable_region(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.region_low is None or answer.region_high is None or answer.params is None:
        return
    interval = f"{LEARNING_RATE} {rate(answer.region_low)} .. {rate(answer.region_high)}"
    yield "STABLE REGION", interval + _elsewhere(answer.params)


def _edge(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.edge is None or answer.params is None:
        return
    text = f"{LEARNING_RATE} {rate(answer.edge.learning_rate)} ({_interval(answer.edge)})"
    if answer.margin_octaves is not None:
        side = "above" if answer.margin_octaves >= 0 else "BELOW"
        ratio = 2.0 ** abs(answer.margin_octaves)
        text += (
            f": {abs(answer.margin_octaves):.1f} octaves (x{ratio:.1f}) {side} the recommendation"
        )
    yield "EDGE", text
    if answer.edge_trial_ids:
        plural = "s" * (len(answer.edge_trial_ids) > 1)
        yield "", f"marked by the unstable trial{plural} {', '.join(answer.edge_trial_ids)}"


def _interval(edge: Edge) -> str:
    return (
        f"90% interval {rate(edge.learning_rate_low)} .. {rate(edge.learning_rate_high)}; "
        f"5% of runs fail at {rate(edge.learning_rate_safe)}"
    )


def _tuner(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.best_trial_id is None or answer.best_score is None:
        return
    if answer.best_trial_id == answer.trial_id:
        yield "A TUNER WOULD", "pick the same: it also has the best score"
        return
    text = f"pick trial {answer.best_trial_id} for its score {answer.best_score:.3g}"
    if answer.best_worst_score is not None and answer.worst_score is not None:
        text += (
            f": within one octave of it the score reaches {answer.best_worst_score:.3g}, "
            f"within one octave of ours {answer.worst_score:.3g}"
        )
    yield "A TUNER WOULD", text


def _pruning(answer: Recommendation, trials: pd.DataFrame | None) -> Iterator[tuple[str, str]]:
    if not answer.steps_budgeted:
        return
    saved = 1 - answer.steps_spent / answer.steps_budgeted
    if trials is None:
        yield "PRUNING", f"saved {saved:.0%} of the step budget"
        return
    stopped = int((trials["stopped_by"] != "").sum())
    yield (
        "PRUNING",
        f"stopped {stopped} of {len(trials)} trials early: {saved:.0%} of the step budget saved",
    )


def _failures(trials: pd.DataFrame) -> Iterator[str]:
    """One line per symptom, the most frequent first, and one for each other way to end."""
    bad = trials[trials["is_unstable"] | (trials["symptom"] == Symptom.NOT_LEARNING.value)]
    for symptom in bad["symptom"].value_counts().index:
        group = bad[bad["symptom"] == symptom]
        yield f"{symptom_words(symptom)}: {_count(len(group))}{_rates(group)}{_timesteps(group)}"
    by_rank = int((trials["stopped_by"] == "rank").sum())
    if by_rank:
        yield f"stopped because others were ahead: {_count(by_rank)}"
    failed = int((trials["outcome"] == "failed").sum())
    if failed:
        yield f"failed, which is not the setting's fault: {_count(failed)}"


def _rates(group: pd.DataFrame) -> str:
    column = f"params_{LEARNING_RATE}"
    if column not in group:
        return ""
    rates = group[column].astype(float)
    low, high = rate(float(rates.min())), rate(float(rates.max()))
    return f", {LEARNING_RATE} {low}" + (f" .. {high}" if high != low else "")


def _timesteps(group: pd.DataFrame) -> str:
    """The timesteps at which most of the group's failures showed."""
    known = group.dropna(subset=["timestep_low", "timestep_high"])
    if known.empty:
        return ""
    ranges = known["timestep_low"].astype(str) + "-" + known["timestep_high"].astype(str)
    counts = ranges.value_counts()
    most = f"mostly at timesteps {counts.index[0]}" if len(counts) > 1 else ""
    return f", {most or f'at timesteps {counts.index[0]}'}"


# --- words ------------------------------------------------------------------------------------


def _labelled(lines: list[tuple[str, str]]) -> Iterator[str]:
    """A label is written once, on the first of its lines."""
    last = None
    for label, text in lines:
        shown = "" if label == last else label
        last = label or last
        yield f"{shown:<{LABEL_WIDTH}} {text}".rstrip()


def _setting(params: Params) -> str:
    return "  ".join(f"{name} {param_text(name, value)}" for name, value in _ordered(params))


def _ordered(params: Params) -> list[tuple[str, ParamValue]]:
    """The learning rate first, the others as they come."""
    return sorted(params.items(), key=lambda item: item[0] != LEARNING_RATE)


def _elsewhere(params: Params) -> str:
    others = {name: value for name, value in params.items() if name != LEARNING_RATE}
    return f" at {_setting(others)}" if others else ""


def _count(trials: int) -> str:
    return "1 trial" if trials == 1 else f"{trials} trials"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
