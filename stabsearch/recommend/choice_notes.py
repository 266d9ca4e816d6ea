"""Why the recommended setting was chosen, and what that does not say: plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stabsearch.recommend.candidates import (
    FAR_ENOUGH,
    TIE_OCTAVES,
    TIE_RATIO,
    Candidate,
    choose,
    first_choice,
)
from stabsearch.recommend.choice import Choice
from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY
from stabsearch.recommend.space import learning_rate_of
from stabsearch.recommend.words import number, params_text, percent, times_words
from stabsearch.records import Purpose, TrialRecord

MEASURED_AROUND = "highest score around it (measured or extrapolated)"
"""In words, what stands in for a predicted worst score."""

NEAR = (
    "That it is near the best is what short trials say (docs/searching.md), not a comparison of "
    "trainings to the end."
)

FAR_OCTAVES = 1.0
"""Octaves from the setting beyond which a better score is a doubt: early scores are best up to 0.8
above the best rate."""


def notes_on_choice(pick: Candidate, choice: Choice) -> list[str]:
    """What the pick was compared with, and by what it was preferred."""
    candidates = choice.candidates
    notes = _on_what_was_compared(pick, choice)
    if candidates and choose(candidates) is pick:
        notes += _on_ties(pick, first_choice(candidates))
    if not pick.is_safe:
        notes.append(_on_risk(pick, choice))
    return notes


def alike(pick: Candidate) -> str:
    """Which trials are judged together: `` with optimizer = adamw``; empty where all are."""
    names = pick.landscape.space.categories
    words = ", ".join(f"{name} = {number(pick.params[name])}" for name in names)
    return f" with {words}" if words else ""


# --- what was compared ------------------------------------------------------------------------


def _on_what_was_compared(pick: Candidate, choice: Choice) -> list[str]:
    landscape = pick.landscape
    if landscape.surface is not None:
        if any(candidate.landscape.surface is None for candidate in choice.candidates):
            return ["Combinations with fewer than 4 usable trials were passed over."]
        return []
    out = {each.setting for each in choice.broken} - {pick.setting}
    left = [c for c in choice.candidates if c.landscape is landscape and c.setting not in out]
    if any(r.purpose is Purpose.PROBE for r in landscape.records):
        return _on_full_trials(pick, choice, left)
    if pick.is_safe and pick.is_sound and landscape.space.axes:
        return [
            f"Too few settings have a score ({len(left)}) to predict it between them: of "
            f"the stable ones that are safe, the one whose {MEASURED_AROUND} is lowest is "
            "recommended."
        ]
    return []


def _on_full_trials(pick: Candidate, choice: Choice, left: Sequence[Candidate]) -> list[str]:
    """Of a search that trained few settings to their end. ``left``: those that may be chosen."""
    full = {r.setting for r in pick.landscape.records if r.purpose is Purpose.SEARCH}
    near = _doubt(pick, choice) or NEAR
    if len(full) == 1:
        return [f"One setting{alike(pick)} was trained to its end. {near}"]
    if len(left) == 1 and left[0] is pick:
        which = f"Of {len(full)} settings{alike(pick)} that were trained to their end"
        return [f"{which} this one alone is left. {near}"]
    if pick.is_safe and pick.is_sound:
        return [
            f"{len(left)} stable settings{alike(pick)} were trained to their end: of those that "
            f"are safe, the one whose {MEASURED_AROUND} is lowest is recommended. {near}"
        ]
    return []


def _doubt(pick: Candidate, choice: Choice) -> str:
    """Why short trials do not say that the best rate is near; empty where they do.

    By their scores at the latest step at which the setting compares with any of them.
    """
    own = {look.step: look.score for look in pick.best_trial.looks if look.score is not None}
    seen = [
        (look.step, look.score, record)
        for record in pick.landscape.sound
        if record.purpose.is_search and abs(_octaves_above(pick, record)) >= FAR_ENOUGH
        for look in record.looks
        if look.score is not None and look.step in own
    ]
    if not seen:
        return "Whether it is near the best no short trial says: none has a score beside its own."
    step = max(step for step, _, _ in seen)
    score, best = min(
        ((score, r) for at, score, r in seen if at == step), key=lambda item: item[0]
    )
    is_far = abs(_octaves_above(pick, best)) > FAR_OCTAVES
    if not is_far or own[step] <= TIE_RATIO * score:
        return ""
    placed = f"; {why}" if (why := _why_lower(pick, choice, best)) else ""
    rate = number(learning_rate_of(best.params))
    return (
        f"That it is near the best cannot be said: by step {step} its score was "
        f"{number(own[step])}, and {number(score)} that of trial {best.trial_id} at learning_rate "
        f"{rate}{placed}."
    )


def _why_lower(pick: Candidate, choice: Choice, other: TrialRecord) -> str:
    """Why the pick was not placed as high as a short trial that is ahead; empty where it was not
    for the sake of safety."""
    landscape, space = pick.landscape, choice.space
    if _octaves_above(pick, other) <= 0 or landscape.risk(other.params) <= MAX_FAILURE_PROBABILITY:
        return ""
    if any(space.category(each.params) == space.category(pick.params) for each in choice.broken):
        return "it lies below a setting that did not hold"
    if pick.is_safe and landscape.edge_at(pick.params) is not None:
        return "it was placed as far below the edge as the study asks"
    return ""


def _octaves_above(pick: Candidate, record: TrialRecord) -> float:
    """Of the learning rate; NaN where it was not searched."""
    return math.log2(learning_rate_of(record.params) / learning_rate_of(pick.params))


def _on_ties(pick: Candidate, first: Candidate) -> list[str]:
    if first is pick or first.rank[0] is not pick.rank[0]:
        return []
    what = MEASURED_AROUND if first.worst_score is None else "predicted worst score"
    return [
        f"Trial {first.best_trial.trial_id} ties with it: {what} {number(first.rank[1])} against "
        f"{number(pick.rank[1])}, and less than {TIE_RATIO - 1:.0%} may turn with the seed. This "
        f"one was preferred because {_preference(pick, first)}."
    ]


def _preference(pick: Candidate, first: Candidate) -> str:
    if first.score > TIE_RATIO * pick.score:
        return "its own score is better"
    if pick.margin_at_least - first.margin_at_least > TIE_OCTAVES:
        return "its margin is larger"
    if pick.is_guarded and not first.is_guarded:
        return "clipping guards it against large gradients"
    return "its score is better" if pick.score < first.score else "its margin is larger"


# --- risk -------------------------------------------------------------------------------------


def _on_risk(pick: Candidate, choice: Choice) -> str:
    """That the pick is not safe, and which setting would be safer, if one is."""
    octaves = pick.landscape.safety_octaves
    known = " as far up as rates were tried" if pick.p_doubled is None else ""
    risk = f"{percent(pick.risk)}{known}"
    likely = (
        f"likely to survive {times_words(octaves)} (P(unstable) <= {MAX_FAILURE_PROBABILITY:.0%})"
    )
    has_held = choice.round is not None and choice.round.has_held
    if choice.round is not None and has_held and choice.round.asked.stress_octaves >= octaves:
        return (
            f"By the model this setting is not {likely}, with {risk}. In its stress test, at "
            f"{times_words(choice.round.asked.stress_octaves)}, it did."
        )
    safer = _safer(pick, choice)
    if safer is None:
        # What did not hold, or lacks seeds, is no choice although the model may call it safe.
        is_any_safe = any(candidate.is_safe for candidate in choice.candidates)
        which = " that may still be recommended" if is_any_safe else ""
        return f"No stable setting{which} is {likely}: this one is the least risky, with {risk}."
    why = "it held in its confirmation" if has_held else "its confirmation goes on"
    return (
        f"This setting is not {likely}, with {risk}: it stays because {why}. Safer by the model "
        f"is setting {safer.setting} ({params_text(safer.params)}), with {percent(safer.risk)}."
    )


def _safer(pick: Candidate, choice: Choice) -> Candidate | None:
    """The less risky setting that would have been chosen but for the pick's confirmation."""
    if choice.is_final:  # nothing held, and it is the least risky one for that
        return None
    broken = {each.setting for each in choice.broken}
    others = [
        candidate
        for candidate in choice.candidates
        if candidate.setting not in broken
        and candidate.num_missing <= pick.num_missing
        and candidate.risk < pick.risk
    ]
    return choose(others) if others else None
