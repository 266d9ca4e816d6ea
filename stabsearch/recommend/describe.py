"""A Recommendation in plain text, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, PLATEAU_SCORE_RATIO
from stabsearch.recommend.space import LEARNING_RATE
from stabsearch.recommend.words import count, number, percent, symptom_words
from stabsearch.records import Params, ParamValue, Recommendation

LABEL_WIDTH = 16


def describe(recommendation: Recommendation, trials: pd.DataFrame | None = None) -> str:
    """The final answer of a study, a labelled line per fact.

    ``trials`` (``Results.trials``) adds why the other settings failed, and what pruning saved.
    """
    lines: list[tuple[str, str]] = [("RECOMMENDED", _recommended(recommendation))]
    lines += _margin(recommendation)
    lines += _intervals(recommendation)
    lines += _edge(recommendation)
    if trials is not None:
        lines += [("WHY OTHERS FAIL", text) for text in _failures(recommendation, trials)]
    lines += _tuner(recommendation)
    lines += _pruning(recommendation, trials)
    lines += [("NOTES", note) for note in recommendation.notes]
    return "\n".join(_labelled(lines))


def to_json(recommendation: Recommendation) -> dict[str, Any]:
    """The record as a dict of plain values, for ``json.dumps``; absent numbers are None."""
    return {name: _finite(value) for name, value in asdict(recommendation).items()}


# --- the lines --------------------------------------------------------------------------------


def _recommended(answer: Recommendation) -> str:
    if answer.params is None:
        return "nothing: no setting was stable"
    seeds = f"stable in {answer.num_stable_seeds} of {count(answer.num_seeds, 'seed')}"
    unfinished = answer.num_seeds - answer.num_stable_seeds - answer.num_failed_seeds
    missing = [(answer.num_failed_seeds, "failed"), (unfinished, "not finished")]
    words = ", ".join(f"{number_of} {what}" for number_of, what in missing if number_of > 0)
    seeds += f" ({words})" if words else ""
    score = f", score {number(answer.score)}" if answer.score is not None else ""
    return f"{_setting(answer.params)}     {seeds}{score} (trial {answer.trial_id})"


def _margin(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.margin_octaves is None or answer.edge is None:
        return
    text = f"{_distance(answer.margin_octaves)} {LEARNING_RATE} "
    text += f"{number(answer.edge.learning_rate_safe)}, where 5% of runs fail"
    if answer.margin_octaves < 0:
        text = f"none: {text}"
    if answer.p_unstable is not None and answer.p_unstable_doubled is not None:
        text += (
            f"; P(unstable) {percent(answer.p_unstable)} here, "
            f"{percent(answer.p_unstable_doubled)} at twice the rate"
        )
    yield "MARGIN", text


def _intervals(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.params is None:
        return
    if answer.region_low is not None and answer.region_high is not None:
        rates = f"{LEARNING_RATE} {number(answer.region_low)} .. {number(answer.region_high)}"
        why = (
            f"at most {MAX_FAILURE_PROBABILITY:.0%} of runs fail"
            if answer.edge
            else "where trials were stable"
        )
        yield "STABLE REGION", f"{rates}{_elsewhere(answer.params)} ({why})"
    if answer.plateau_low is not None and answer.plateau_high is not None:
        rates = f"{LEARNING_RATE} {number(answer.plateau_low)} .. {number(answer.plateau_high)}"
        within = f"within {PLATEAU_SCORE_RATIO - 1:.0%}"
        yield "NEARLY AS GOOD", f"{rates} (predicted score {within})"


def _edge(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.edge is None:
        return
    low, high = answer.edge.learning_rate_low, answer.edge.learning_rate_high
    text = (
        f"{LEARNING_RATE} {number(answer.edge.learning_rate)}: half of the runs fail "
        f"(90% interval {number(low)} .. {number(high)})"
    )
    if answer.edge_trial_ids:
        plural = "s" * (len(answer.edge_trial_ids) > 1)
        text += f"; nearest unstable trial{plural} {', '.join(answer.edge_trial_ids)}"
    yield "EDGE", text


def _tuner(answer: Recommendation) -> Iterator[tuple[str, str]]:
    if answer.best_trial_id is None or answer.best_params is None:
        return
    if answer.best_trial_id == answer.trial_id:
        yield "A TUNER WOULD", "pick the same: of all completed trials it has the best score"
        return
    verdict = "stable" if answer.best_is_stable else "NOT stable"
    text = (
        f"pick trial {answer.best_trial_id}, {_setting(answer.best_params)}, for its score "
        f"{number(answer.best_score)}: {verdict}"
    )
    if answer.best_margin_octaves is not None:
        text += f", {_distance(answer.best_margin_octaves)} where 5% of runs fail"
    yield "A TUNER WOULD", text
    if answer.best_worst_score is not None:
        text = f"{number(answer.best_worst_score)} around the tuner's"
        if answer.worst_score is not None:
            text = f"{number(answer.worst_score)} around ours, {text}"
        yield "", f"predicted worst score within one octave: {text}"
    if answer.price_of_safety is not None:
        price = answer.price_of_safety
        shown = f"{price:.1%}" if price < 0.1 else f"{price:.0%}"
        yield "PRICE OF SAFETY", f"a score {shown} above the tuner's"


def _distance(octaves: float) -> str:
    side = "below" if octaves >= 0 else "ABOVE"
    return f"{abs(octaves):.1f} octaves (x{2.0 ** abs(octaves):.1f}) {side}"


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


def _failures(answer: Recommendation, trials: pd.DataFrame) -> Iterator[str]:
    """One line per symptom, the most frequent first, and one for each other way to end."""
    is_unstable = trials["trial_id"].isin(answer.unstable_trial_ids)
    is_failed = trials["outcome"] == "failed"
    is_penalised = trials["severity"].isin(("penalise", "prune"))
    bad = trials[is_unstable | (~is_failed & is_penalised)]
    why = [
        symptom_words(symptom, is_unstable=unstable)
        for symptom, unstable in zip(bad["symptom"], is_unstable[bad.index], strict=True)
    ]
    groups = [(words, group) for words, group in bad.assign(why=why).groupby("why")]
    for words, group in sorted(groups, key=lambda item: (-len(item[1]), item[0])):
        yield f"{words}: {count(len(group), 'trial')}{_rates(group)}{_timesteps(group)}"
    by_rank = int((trials["stopped_by"] == "rank").sum())
    if by_rank:
        yield f"stopped because others were ahead: {count(by_rank, 'trial')}"
    if is_failed.any():
        yield f"failed, which is not the setting's fault: {count(int(is_failed.sum()), 'trial')}"


def _rates(group: pd.DataFrame) -> str:
    column = f"params_{LEARNING_RATE}"
    if column not in group:
        return ""
    rates = group[column].astype(float)
    low, high = number(float(rates.min())), number(float(rates.max()))
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
    return "  ".join(f"{name} {number(value)}" for name, value in _ordered(params))


def _ordered(params: Params) -> list[tuple[str, ParamValue]]:
    """The learning rate first, the others as they come."""
    return sorted(params.items(), key=lambda item: item[0] != LEARNING_RATE)


def _elsewhere(params: Params) -> str:
    others = {name: value for name, value in params.items() if name != LEARNING_RATE}
    return f" at {_setting(others)}" if others else ""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
