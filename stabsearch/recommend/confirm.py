"""Which trials a confirmation still needs, and what can be said when they have ended.

The statement follows from a stress test (Clopper-Pearson without failures, and the fitted
logistic edge): n clean seeds at 2^m times the learning rate bound P(unstable) there by
1 - 0.05^(1/n) at 95%, and the odds at the rate itself are lower by exp(slope x m) at least. It
takes that failure grows with the learning rate, which is so where clipping guards, and measured to
be otherwise where it does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabsearch.recommend.candidates import Candidate
from stabsearch.recommend.choice import Choice, choice_of
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.rounds import MAX_ROUNDS, Round, stress_params
from stabsearch.recommend.space import LEARNING_RATE, learning_rate_of
from stabsearch.recommend.words import count, params_text, percent, symptom_words, times_words
from stabsearch.records import Confirmation, Ending, Params, Purpose, TrialRecord

CONFIDENCE_LEFT = 0.05
"""One minus the confidence of every bound."""

CLEARLY_BETTER = 0.98
"""Times the setting's score, of a stress test whose every seed is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """A trial that is to be trained to its end."""

    setting: int
    seed: int
    params: Params
    purpose: Purpose


def planned_trials(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> list[PlannedTrial]:
    """What the confirmation still needs, all of a round at once; empty when it is over.

    A pure function: it says the same again until one of the trials has ended.
    """
    if not study.get("confirm"):
        return []
    choice = choice_of(records, study)
    if choice.round is None or choice.is_final or choice.round.is_planned_out:
        return []
    return list(_missing(choice.round, study))


def confirmation_of(choice: Choice, study: Mapping[str, Any]) -> Confirmation | None:
    """How the confirmation of the pick stands; None where the study asks for none."""
    own_round, pick = choice.round, choice.pick
    if own_round is None or pick is None:
        return None
    rate = stress_params(own_round.params, study, own_round.asked)[LEARNING_RATE]
    return Confirmation(
        num_seeds=len(own_round.counted_own),
        num_stable=own_round.num_stable,
        stress_octaves=own_round.asked.stress_octaves,
        stress_learning_rate=float(rate or math.nan),
        num_stress_seeds=len(own_round.counted_stress),
        num_stress_stable=own_round.num_stress_stable,
        num_stress_poor=own_round.num_stress_poor,
        num_asked=own_round.asked.num_seeds,
        p_fail_bound=_bound(choice, own_round),
        moved_from=tuple(each.setting for each in choice.broken if each.setting != pick.setting),
    )


def seeds_bound(num_clean: int, num_failed: int = 0) -> float:
    """95% upper bound of P(fail) after so many runs without a failure, and so many with one
    (Clopper and Pearson 1934)."""
    if not num_failed:
        return float(1 - CONFIDENCE_LEFT ** (1 / num_clean))
    runs = num_clean + num_failed

    def p_as_few(p: float) -> float:
        return sum(
            math.comb(runs, k) * p**k * (1 - p) ** (runs - k) for k in range(num_failed + 1)
        )

    low, high = num_failed / runs, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if p_as_few(middle) > CONFIDENCE_LEFT else (low, middle)
    return high


def stress_bound(num_clean: int, slope: float, octaves: float) -> float:
    """95% upper bound of P(fail) ``octaves`` below where ``num_clean`` runs did not fail.

    ``slope`` is how fast the log odds of failure grow per octave (science.md 4.1-3).
    """
    p_stress = seeds_bound(num_clean)
    odds = p_stress / (1 - p_stress) * math.exp(-slope * octaves)
    return odds / (1 + odds)


def no_certificate(choice: Choice) -> str | None:
    """Why no bound follows from the stress test; None if one does, or if none was asked for."""
    own_round, pick = choice.round, choice.pick
    if own_round is None or pick is None:
        return None
    edge = pick.landscape.edge_at(pick.params)
    clean = own_round.num_stress_stable == len(own_round.counted_stress) > 0
    obstacles = (
        (own_round.asked.stress_octaves == 0, "no stress test was asked for"),
        (not clean, "the stress test is not clean"),
        (edge is None, "the edge was not seen"),
        (
            edge is not None and edge.slope_low is None,
            "failure does not grow with the learning rate here",
        ),
        (
            not pick.is_guarded,
            "gradients are not clipped in practice, and without clipping failures come at lower "
            "learning rates too",
        ),
    )
    return next((why for is_so, why in obstacles if is_so), None)


def lower_rates(pick: Candidate) -> str:
    """What to do where a setting is at risk: there may be a reason why no lower one was taken."""
    below = (
        record
        for record in pick.landscape.records
        if learning_rate_of(record.params) < learning_rate_of(pick.params)
    )
    why = poor_reasons(below)
    if not why:
        return "Search lower learning rates"
    return f"Lower rates were trained, and are not called stable for another reason ({why})"


def poor_reasons(records: Iterable[TrialRecord]) -> str:
    """Why those that learned and did not fail are not called stable; empty without such a one."""
    poor = (r for r in records if r.ending is Ending.POOR and not never_learned(r))
    return ", ".join(sorted({symptom_words(r.symptom, is_unstable=False) for r in poor}))


def notes_on_confirmation(choice: Choice) -> list[str]:
    """Where the recommendation moved from, and why."""
    notes = [_moved(each) for each in choice.broken]
    if choice.is_final and choice.pick is not None:
        notes.append(
            f"Nothing held in the confirmation ({_why_final(choice)}): the setting above is the "
            f"least risky one that is left, and it is not confirmed. {lower_rates(choice.pick)}."
        )
    if choice.round is not None and choice.round.has_held:
        notes += _better_under_stress(choice.round)
    why_not = no_certificate(choice)
    if why_not is not None and choice.round is not None and choice.round.is_planned_out:
        notes.append(
            f"No certificate: {why_not}. Clean seeds say of P(unstable) only what their number "
            "allows."
        )
    return notes


def _why_final(choice: Choice) -> str:
    if len(choice.broken) >= MAX_ROUNDS:
        return f"{MAX_ROUNDS} settings were tried"
    untried = {c.setting for c in choice.candidates} - {each.setting for each in choice.broken}
    return "no other setting is farther from the edge" if untried else "no other setting is left"


def _better_under_stress(held: Round) -> list[str]:
    """A stress test trains a higher rate to its end: that may show that the best one is there."""
    own, stress = (
        {trial.seed: trial.score for trial in trials if trial.score}
        for trials in (held.counted_own, held.counted_stress)
    )
    ratios = [stress[seed] / own[seed] for seed in own.keys() & stress.keys()]
    if not ratios or max(ratios) >= 1:
        return []
    ratio = statistics.median(ratios)
    if ratio > CLEARLY_BETTER:
        return []
    rate = times_words(held.asked.stress_octaves)
    return [
        f"At {rate} the score is {percent(1 - ratio)} lower, and in "
        f"{len(ratios)} of {count(len(ratios), 'seed')}: the best learning rate lies higher."
    ]


def _moved(broken: Round) -> str:
    own = f"{broken.num_stable} of {count(len(broken.counted_own), 'seed')}"
    text = f"Setting {broken.setting} ({params_text(broken.params)}) did not hold: stable in {own}"
    if broken.asked.stress_octaves > 0:
        stress = f"{broken.num_stress_stable} of {len(broken.counted_stress)}"
        text += f", and in {stress} at {times_words(broken.asked.stress_octaves)}"
    return f"{text}."


def _missing(own_round: Round, study: Mapping[str, Any]) -> Iterator[PlannedTrial]:
    wanted = stress_params(own_round.params, study, own_round.asked)
    parts = [(own_round.setting, own_round.params, own_round.own, Purpose.CONFIRM)]
    if own_round.asked.stress_octaves > 0:
        parts.append((own_round.stress_setting, wanted, own_round.stress, Purpose.STRESS))
    for setting, params, ended, purpose in parts:
        there = {trial.seed for trial in ended}
        for seed in own_round.seeds:
            if seed not in there:
                yield PlannedTrial(setting=setting, seed=seed, params=params, purpose=purpose)


def _bound(choice: Choice, own_round: Round) -> float | None:
    if no_certificate(choice) is not None or not own_round.has_held:
        return None
    assert choice.pick is not None
    edge = choice.pick.landscape.edge_at(choice.pick.params)
    assert edge is not None
    assert edge.slope_low is not None
    octaves = own_round.asked.stress_octaves
    return stress_bound(len(own_round.counted_stress), edge.slope_low, octaves)
