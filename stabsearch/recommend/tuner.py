"""What a tuner would have answered: the lowest score, and what is known of its stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stabsearch.recommend.candidates import OWN_PURPOSES, Candidate
from stabsearch.recommend.choice import Choice
from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, Landscape
from stabsearch.recommend.rounds import Round
from stabsearch.recommend.words import count, symptom_words, times_words
from stabsearch.records import Outcome, Purpose, TrialRecord

MIN_CHOICE = 2
"""Settings that short trials left for training to the end; fewer are no choice of a tuner's."""


def tuners_choice(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The lowest score that the search trained to: a tuner does not know what is stable. None
    where there is nothing to choose among."""
    scored = [
        r
        for r in records
        if r.purpose is Purpose.SEARCH and r.outcome is Outcome.COMPLETED and r.score is not None
    ]
    has_probes = any(r.purpose is Purpose.PROBE for r in records)
    if has_probes and len({r.setting for r in scored}) < MIN_CHOICE:
        return None
    return min(scored, key=lambda r: (r.score or 0.0, r.trial_id), default=None)


def tuner_fields(choice: Choice, trial: TrialRecord) -> dict[str, Any]:
    """The fields of a Recommendation that speak of a tuner's ``trial``."""
    landscape = choice.landscapes[choice.space.category(trial.params)]
    return {
        "best_trial_id": trial.trial_id,
        "best_params": trial.params,
        "best_score": trial.score,
        "best_is_stable": trial.is_stable,
        "best_judgement": _judgement(choice, landscape, trial),
        "best_margin_octaves": landscape.margin(trial.params),
        "best_worst_score": landscape.worst_scores([trial.params])[0],
        "price_of_safety": _price(choice, landscape, trial),
    }


def _judgement(choice: Choice, landscape: Landscape, trial: TrialRecord) -> str:
    """``stable``; else what was unstable, or poor."""
    own = _seeds_of(landscape, trial)
    unstable = [each for each in own if landscape.is_unstable(each)]
    poor = [each for each in own if not landscape.is_unstable(each) and not each.is_stable]
    if len(unstable) == len(own):
        return "NOT stable"
    if unstable:
        return f"NOT stable in {len(unstable)} of {count(len(own), 'seed')}"
    if poor:
        why = ", ".join(sorted({symptom_words(r.symptom, is_unstable=False) for r in poor}))
        where = f" in {len(poor)} of {count(len(own), 'seed')}" if len(own) > 1 else ""
        return f"not called stable, because it {why}{where}"
    if (broken := _broken_round(choice, trial)) is not None:
        failed = len(broken.counted_stress) - broken.num_stress_stable
        at = times_words(broken.asked.stress_octaves)
        return f"stable, but at {at} {failed} of {len(broken.counted_stress)} failed"
    return "stable"


def _price(choice: Choice, landscape: Landscape, trial: TrialRecord) -> float | None:
    """How much higher the pick's score is: what it costs that it was taken for its safety."""
    pick = choice.pick
    if pick is None or not trial.score:
        return None
    if trial.setting == pick.setting or trial.params == pick.params:
        return 0.0
    if not _is_safer(pick, choice, landscape, trial):
        return None
    return (pick.best_trial.score or 0.0) / trial.score - 1.0


def _is_safer(pick: Candidate, choice: Choice, landscape: Landscape, trial: TrialRecord) -> bool:
    """Whether the pick was taken instead of a trial for being less likely to fail: it may be the
    better one for another reason, such as what else is said of the other, or its words."""
    own = _seeds_of(landscape, trial)
    if any(landscape.is_unstable(each) for each in own):
        return True
    if not all(each.is_stable for each in own):
        return False
    if _broken_round(choice, trial) is not None:
        return True
    is_alike = landscape is pick.landscape
    is_at_risk = landscape.risk(trial.params) > max(MAX_FAILURE_PROBABILITY, pick.risk)
    return (is_alike or is_at_risk) and _is_nearer(pick, landscape, trial, is_alike=is_alike)


def _is_nearer(
    pick: Candidate, landscape: Landscape, trial: TrialRecord, *, is_alike: bool
) -> bool:
    """Whether a trial lies nearer to its edge than the pick: by the margins where both are known,
    else by how they lie to each other. Of other words it is at risk, and they are not."""
    theirs = landscape.margin(trial.params)
    if pick.margin is not None and theirs is not None:
        return theirs < pick.margin
    return not is_alike or not landscape.is_as_near(pick.params, trial.params)


def _seeds_of(landscape: Landscape, trial: TrialRecord) -> list[TrialRecord]:
    """The trials of its setting that say what it does over the whole budget."""
    return [
        each
        for each in landscape.records
        if each.params == trial.params
        and each.purpose in OWN_PURPOSES
        and (each.outcome is Outcome.COMPLETED or landscape.is_unstable(each))
    ]


def _broken_round(choice: Choice, trial: TrialRecord) -> Round | None:
    """The confirmation in which its setting did not hold."""
    return next((each for each in choice.broken if each.params == trial.params), None)
