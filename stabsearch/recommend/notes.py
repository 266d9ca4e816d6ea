"""What an answer rests on, and what it does not cover: plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from stabsearch.recommend.candidates import (
    Candidate,
    choose,
)
from stabsearch.recommend.choice import Choice
from stabsearch.recommend.choice_notes import alike, notes_on_choice
from stabsearch.recommend.clipping import guard_advice
from stabsearch.recommend.confirm import lower_rates, seeds_bound
from stabsearch.recommend.edge_process import SAFE, EdgeProcess
from stabsearch.recommend.evidence import learned_nothing
from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, Landscape
from stabsearch.recommend.nothing_stable import notes_on_nothing_stable
from stabsearch.recommend.space import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    SearchSpace,
    field_value,
    learning_rate_of,
)
from stabsearch.recommend.words import count, number, params_text, percent
from stabsearch.records import Edge, Outcome, ParamValue, TrialRecord
from stabsearch.spec import MAX_GRAD_NORM_CLIPPINGS

WEIGHING_SECTIONS = {
    "noise_schedule.": "they weigh noise levels differently",
    "data.": "they are of different examples",
}
"""Sections whose parameters change what the score measures, and why."""

SAMPLER_RULE = "R11"

Landscapes = Mapping[tuple[ParamValue, ...], Landscape]


def notes_on_study(
    space: SearchSpace, landscapes: Landscapes, candidates: Sequence[Candidate]
) -> list[str]:
    """On the trials as a whole."""
    records = [record for landscape in landscapes.values() for record in landscape.records]
    if not records:
        return ["No trial has reported yet."]
    notes = _comparability(space, records, candidates)
    running = sum(r.outcome is Outcome.RUNNING for r in records)
    failed = sum(r.outcome is Outcome.FAILED for r in records)
    if running:
        notes.append(f"{count(running, 'trial')} not finished: this is the answer so far.")
    if failed:
        notes.append(
            f"{count(failed, 'trial')} failed for reasons of the machine or the code, and "
            f"{'is' if failed == 1 else 'are'} not counted for or against the setting."
        )
    notes += sorted({record.remarks for record in records if record.remarks})
    if space.axis(LEARNING_RATE) is None:
        notes.append("The learning rate was not searched: there is no edge and no margin.")
    if space.categories:
        names = ", ".join(space.categories)
        notes.append(f"Each combination of {names} was judged by its own trials alone.")
    if not candidates:
        notes += notes_on_nothing_stable(landscapes)
    return notes


def notes_on_sampler(verdicts: pd.DataFrame) -> list[str]:
    """What rule R11 found out about the study's sampler before any training."""
    reasons = verdicts.loc[verdicts.rule == SAMPLER_RULE, "reason"].unique()
    return [
        f"{reason[:1].upper()}{reason[1:].rstrip('.')}. Until that is mended, bad samples say "
        "nothing about a setting; `stabsearch check-sampler` looks into it."
        for reason in sorted(reasons)
    ]


def notes_on_pick(pick: Candidate, choice: Choice, study: Mapping[str, Any]) -> list[str]:
    """On the recommended setting."""
    return [
        *_on_the_score(pick),
        *notes_on_choice(pick, choice),
        *_on_the_edge(pick),
        *_on_seeds(pick),
        *_on_clipping(pick, study),
    ]


# --- on the study -----------------------------------------------------------------------------


def _comparability(
    space: SearchSpace, records: Sequence[TrialRecord], candidates: Sequence[Candidate]
) -> list[str]:
    """The loud one: scores that must not be compared."""
    searched = (*space.categories, *(axis.name for axis in space.axes))
    reasons = {
        name: why
        for name in searched
        for section, why in WEIGHING_SECTIONS.items()
        if name.startswith(section) and len({record.params[name] for record in records}) > 1
    }
    if not reasons:
        return []
    names = list(reasons)
    note = (
        f"CAUTION: scores of different {' and '.join(names)} do NOT compare, because "
        f"{' and '.join(dict.fromkeys(reasons.values()))}; within one value they do. Choose "
        "between the values by the quality of samples."
    )
    groups: dict[tuple[ParamValue, ...], list[Candidate]] = {}
    for candidate in candidates:
        key = tuple(candidate.params[name] for name in names)
        groups.setdefault(key, []).append(candidate)
    if 1 < len(groups) <= 4:  # more are a list for the table, not for a sentence
        best = [choose(group) for group in groups.values()]
        note += " Best of each: " + "; ".join(
            f"{params_text(c.params)} (score {number(c.score)})" for c in best
        )
        note += "."
    return [note]


# --- on the pick ------------------------------------------------------------------------------


def _on_the_score(pick: Candidate) -> list[str]:
    """Where so little is learned, nothing can be lost: rules that look for a loss see none."""
    constant = pick.best_trial.constant_score
    if not learned_nothing(pick.best_trial):
        return []
    return [
        f"CAUTION: its score {number(pick.score)} is hardly better than {number(constant)}, that "
        "of a constant prediction. A network that training has killed scores the same: what is "
        "called stable here has only not exploded. Train longer; if that changes nothing, there "
        "is nothing to learn from these data with this prediction type and these timesteps."
    ]


def _on_the_edge(pick: Candidate) -> list[str]:
    landscape = pick.landscape
    axis = landscape.space.axis(LEARNING_RATE)
    if axis is None:
        return []
    if landscape.edge is None:
        return [
            f"No trial{alike(pick)} was unstable: the edge lies above the searched range, or "
            "beyond what was tried. Search higher learning rates to find it."
        ]
    edge = landscape.edge_at(pick.params)
    notes = [*landscape.edge.remarks, *_out_of_order(landscape), *_further_axes(landscape, pick)]
    if edge is None:
        notes.append("No rate above this setting that was tried fails in half of the runs.")
    else:
        notes += _beyond_full_trials(pick, edge)
        tried = [learning_rate_of(record.params) for record in landscape.records]
        low, high = min(axis.low, *tried), max(axis.high, *tried)  # a stress test goes beyond it
        if not low <= edge.learning_rate <= high:
            side = "above" if edge.learning_rate > high else "below"
            notes.append(f"The edge is an extrapolation: it lies {side} the searched range.")
    region = landscape.stable_region(pick.params)
    yet = "this setting was stable, and yet, by the other trials, more than"
    if not pick.is_sound:
        yet = "by these trials more than"
    remedy = "of its runs fail. " + (
        f"{lower_rates(pick)}, or confirm it with more seeds."
        if landscape.fails_by_rate
        else "Confirm it with more seeds."
    )
    if region is None:
        notes.append(f"There is no stable region: {yet} {MAX_FAILURE_PROBABILITY:.0%} {remedy}")
    elif edge is not None and edge.learning_rate_safe < learning_rate_of(pick.params):
        notes.append(f"The margin is below zero: {yet} {SAFE:.0%} {remedy}")
    if region is not None and region[1] >= axis.high * (1 - 1e-6):
        notes.append("The stable region reaches the end of the searched range, and may go on.")
    return notes


def _beyond_full_trials(pick: Candidate, edge: Edge) -> list[str]:
    """That the edge is only known by what trials showed early, if it is."""
    landscape = pick.landscape
    alive = [r for r in landscape.records if r.has_result and not landscape.is_unstable(r)]
    whole = [learning_rate_of(r.params) for r in alive if r.outcome is Outcome.COMPLETED]
    if not whole or edge.learning_rate < 2.0**landscape.octaves * max(whole):
        return []
    shares = [
        record.steps / record.max_train_steps
        for record in alive
        if max(whole) < learning_rate_of(record.params) < edge.learning_rate
    ]
    if not shares:
        return []
    return [
        f"Above learning_rate {number(max(whole))} no trial that was stable trained for more than "
        f"{percent(max(shares))} of its steps: if your runs fail later than that, the edge lies "
        "lower (docs/answer.md)."
    ]


def _out_of_order(landscape: Landscape) -> list[str]:
    odd = landscape.edge.out_of_order if landscape.edge else ()
    if not odd:
        return []
    shown = ", ".join(odd[:4]) + (", ..." if len(odd) > 4 else "")
    found = f"{count(len(odd), 'trial')} ({shown}) failed an octave or more BELOW stable ones."
    if isinstance(landscape.edge, EdgeProcess):
        return [
            f"Failure does NOT grow with the learning rate here: {found} No logistic edge fits, "
            "so the edge is the next rate above the setting at which half of the runs fail, by a "
            "Gaussian process. It has no slope, says nothing beyond the tried rates, and failures "
            "may come below it, too: the stable region ends where they do."
        ]
    others = " or another searched parameter" * (len(landscape.space.axes) > 1)
    return [
        f"Failure is not a matter of the learning rate alone here: {found} Chance{others} decides "
        "too; edge and margin assume that neither does. Trust only what more seeds confirm."
    ]


def _further_axes(landscape: Landscape, pick: Candidate) -> list[str]:
    """What the edge of a study with more than two numeric parameters is conditioned on."""
    tried = {
        axis.name: {record.params[axis.name] for record in landscape.records}
        for axis in landscape.space.axes
        if axis.name not in (LEARNING_RATE, MAX_GRAD_NORM)
    }
    varied, held = (
        {name: pick.params[name] for name, values in tried.items() if is_one is (len(values) == 1)}
        for is_one in (False, True)
    )
    notes = []
    if varied:
        move = "moves" if len(varied) == 1 else "each move"
        scores = " Scores are predicted over all searched parameters together."
        notes.append(
            f"Edge, margin and region are along the learning rate at {params_text(varied)}, the "
            f"recommended value{'s' * (len(varied) > 1)}, which {move} the edge in a straight "
            f"line in this model.{scores if landscape.surface is not None else ''}"
        )
    if held:
        notes.append(
            f"Held at {params_text(held)} in every trial{alike(pick)}: nothing is known of other "
            "values."
        )
    return notes


def _on_seeds(pick: Candidate) -> list[str]:
    seeds = len(pick.trials)
    notes = []
    if pick.num_missing:
        notes.append(
            f"{count(pick.num_missing, 'seed')} of this setting and of every other stable one "
            "did not train to the end: the same `stabsearch run` trains what is missing."
        )
    steps = pick.trials[0].max_train_steps
    if pick.num_unstable:
        bound = seeds_bound(seeds, pick.num_unstable)
        notes.append(
            f"{count(pick.num_unstable, 'seed')} of {seeds + pick.num_unstable} failed over "
            f"{steps} steps: taken alone, that only says that fewer than {bound:.0%} of such runs "
            "do."
        )
        return notes
    notes.append(
        f"{count(seeds, 'clean seed')} over {steps} steps: taken alone, that only says that fewer "
        f"than {seeds_bound(seeds):.0%} of such runs fail. A longer training, or more seeds, may "
        "show more."
    )
    return notes


def _on_clipping(pick: Candidate, study: Mapping[str, Any]) -> list[str]:
    if pick.is_guarded:
        return []
    clipping = field_value(study, pick.params, "clipping")
    is_by_norm = clipping in MAX_GRAD_NORM_CLIPPINGS
    value = field_value(study, pick.params, MAX_GRAD_NORM)
    how = f"max_grad_norm {number(value)}" if is_by_norm else f"clipping {clipping}"
    note = (
        f"Its gradients are not clipped in practice ({how}): without "
        "clipping a failure may come late, and at a moderate learning rate too."
    )
    advice = guard_advice(pick, study)
    if advice:
        note += f" {advice[0].upper()}{advice[1:]}."
    note += " Clean steps at higher rates certify nothing here: only its own steps count."
    return [note]
