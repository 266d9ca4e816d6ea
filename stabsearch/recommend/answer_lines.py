"""The lines of an answer that a Recommendation alone says: (label, text)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from stabsearch.recommend.landscape import MAX_FAILURE_PROBABILITY, PLATEAU_SCORE_RATIO
from stabsearch.recommend.space import LEARNING_RATE, MAX_GRAD_NORM
from stabsearch.recommend.words import (
    count,
    number,
    octaves_words,
    percent,
    setting_text,
    times_words,
)
from stabsearch.records import Params, Recommendation, Stabiliser

Line = tuple[str, str]

MAX_STABILISERS = 5

SAYS_NOTHING = 0.999
"""What a bound does from here on."""


def answer_lines(answer: Recommendation) -> Iterator[Line]:
    """The setting, whether it was confirmed, and how far it is from the edge."""
    yield "RECOMMENDED", _recommended(answer)
    yield from _confirmation(answer)
    yield from _margin(answer)
    yield from _intervals(answer)
    yield from _edge(answer)


def risk_lines(answer: Recommendation) -> Iterator[Line]:
    """What else decides about stability."""
    if answer.lr_sensitivity is not None:
        yield (
            "SENSITIVITY",
            f"{number(answer.lr_sensitivity)}: mean loss above the best one over the searched "
            f"{LEARNING_RATE}s, in units of L_iso - L_lin",
        )
    if answer.clip_meaning:
        yield "CLIPPING", answer.clip_meaning
    yield from _horizon(answer)
    yield from (("WHAT STABILISES", text) for text in _stabilisers(answer.stabilisers))


def tuner_lines(answer: Recommendation) -> Iterator[Line]:
    """What a tuner would have answered, and what safety costs."""
    if answer.best_trial_id is None or answer.best_params is None:
        return
    if answer.best_params == answer.params:
        yield "A TUNER WOULD", "pick the same: of all completed trials it has the best score"
        return
    text = (
        f"pick trial {answer.best_trial_id}, {setting_text(answer.best_params)}, for its score "
        f"{number(answer.best_score)}: {answer.best_judgement}"
    )
    if answer.best_margin_octaves is not None:
        text += f", {_distance(answer.best_margin_octaves)} where 5% of runs fail"
    yield "A TUNER WOULD", text
    if answer.best_worst_score is not None:
        text = f"{number(answer.best_worst_score)} around the tuner's"
        if answer.worst_score is not None:
            text = f"{number(answer.worst_score)} around ours, {text}"
        within = octaves_words(answer.margin_asked)
        yield "", f"predicted worst score within {within}: {text}"
    if answer.price_of_safety is not None:
        price = answer.price_of_safety
        shown = f"{price:.1%}" if price < 0.1 else f"{price:.0%}"
        ours = f"{number(answer.trial_score)} in trial {answer.trial_id}"
        theirs = f"{number(answer.best_score)} in trial {answer.best_trial_id}"
        yield "PRICE OF SAFETY", f"a score {shown} above the tuner's: {ours} against {theirs}"


# --- the setting ------------------------------------------------------------------------------


def _recommended(answer: Recommendation) -> str:
    if answer.params is None:
        return "nothing: no setting was stable to the end of its training"
    seeds = f"stable in {answer.num_stable_seeds} of {count(answer.num_seeds, 'seed')}"
    unfinished = answer.num_seeds - answer.num_stable_seeds - answer.num_failed_seeds
    missing = [(answer.num_failed_seeds, "failed"), (unfinished, _unfinished(answer))]
    words = ", ".join(f"{number_of} {what}" for number_of, what in missing if number_of > 0)
    seeds += f" ({words})" if words else ""
    return f"{setting_text(answer.params)}     {seeds}{_score(answer)}"


def _score(answer: Recommendation) -> str:
    """The worst over seeds, and the one that the setting was chosen for."""
    score, own, trial = number(answer.score), number(answer.trial_score), answer.trial_id
    if answer.score is None:
        return f" (trial {trial})"
    if answer.trial_score is None or own == score:
        return f", score {score} (trial {trial})"
    return f", score {score} at worst ({own} in trial {trial})"


def _unfinished(answer: Recommendation) -> str:
    """A setting that is kept although a seed of it failed has no missing seeds."""
    own = answer.confirmation
    return "not stable" if own is not None and own.num_stable < own.num_seeds else "not finished"


def _confirmation(answer: Recommendation) -> Iterator[Line]:
    own = answer.confirmation
    if own is None or answer.params is None:
        return
    text = f"{', '.join(setting_text(answer.params).split('  '))}: "
    text += f"stable in {own.num_stable} of {count(own.num_seeds, 'seed')}"
    if own.stress_octaves > 0:
        stress = (
            f"{own.num_stress_stable} of {own.num_stress_seeds}"
            if own.num_stress_seeds
            else "none"
        )
        poor = f" ({own.num_stress_poor} of them poor)" if own.num_stress_poor else ""
        text += f", in {stress} at {times_words(own.stress_octaves)}{poor}"
    if own.p_fail_bound is not None:
        text += f"; at most {percent(own.p_fail_bound)} of such runs fail (95% bound)"
    if not own.is_complete:
        text += f"; {own.num_asked} of each were asked for"
    yield "CONFIRMED" if own.has_held else "NOT CONFIRMED", text


# --- the edge ---------------------------------------------------------------------------------


def _margin(answer: Recommendation) -> Iterator[Line]:
    if answer.margin_octaves is None or answer.edge is None:
        return
    text = f"{_distance(answer.margin_octaves)} {LEARNING_RATE} "
    text += f"{number(answer.edge.learning_rate_safe)}, where 5% of runs fail"
    if answer.margin_octaves < 0:
        text = f"none: {text}"
    if answer.p_unstable is not None and answer.p_unstable_doubled is not None:
        text += (
            f"; P(unstable) {percent(answer.p_unstable)} here, "
            f"{percent(answer.p_unstable_doubled)} at {times_words(answer.margin_asked)}"
        )
    yield "MARGIN", text


def _intervals(answer: Recommendation) -> Iterator[Line]:
    if answer.params is None:
        return
    if answer.region_low is not None and answer.region_high is not None:
        rates = f"{LEARNING_RATE} {number(answer.region_low)} .. {number(answer.region_high)}"
        if answer.edge is not None:
            why = f"at most {MAX_FAILURE_PROBABILITY:.0%} of runs fail"
            yield "STABLE REGION", f"{rates}{_elsewhere(answer.params)} ({why})"
        else:
            others = {n: v for n, v in answer.params.items() if n != LEARNING_RATE}
            words: Params = {n: v for n, v in others.items() if isinstance(v, str | bool)}
            numbers = ", ".join(name for name in others if name not in words)
            at = f" at {setting_text(words)}" if words else ""
            whatever = f", whatever their {numbers}" if numbers else ""
            yield "STABLE REGION", f"{rates}{at} (where trials were stable{whatever})"
    if answer.plateau_low is not None and answer.plateau_high is not None:
        rates = f"{LEARNING_RATE} {number(answer.plateau_low)} .. {number(answer.plateau_high)}"
        within = f"within {PLATEAU_SCORE_RATIO - 1:.0%}"
        yield "NEARLY AS GOOD", f"{rates} (predicted score {within})"


def _edge(answer: Recommendation) -> Iterator[Line]:
    edge = answer.edge
    if edge is None:
        if answer.params is not None and answer.is_precise is False:
            yield "EDGE", "not seen, and NOT known as precisely as was asked"
        return
    interval = f"{number(edge.learning_rate_low)} .. {number(edge.learning_rate_high)}"
    if math.isinf(edge.learning_rate_high):
        interval = f"{number(edge.learning_rate_low)} or higher"
    text = f"{LEARNING_RATE} {number(edge.learning_rate)}: half of the runs fail " + (
        f"(90% interval {interval})"
    )
    if answer.edge_trial_ids:
        plural = "s" * (len(answer.edge_trial_ids) > 1)
        text += f"; nearest unstable trial{plural} {', '.join(answer.edge_trial_ids)}"
    yield "EDGE", text
    if _is_spread([each.max_grad_norm for each in answer.edges]):
        rates = ", ".join(
            f"{number(each.edge.learning_rate)} with {number(each.max_grad_norm)}"
            for each in answer.edges
        )
        yield "", f"by {MAX_GRAD_NORM}: {rates}"
    if answer.is_precise is not None:
        width = edge.half_width_octaves
        known = f"known to +-{width:.2f} octaves" if math.isfinite(width) else "known from below"
        yield "", f"{known}, {'as' if answer.is_precise else 'NOT as'} precisely as was asked"


# --- what else decides ------------------------------------------------------------------------


def _horizon(answer: Recommendation) -> Iterator[Line]:
    horizon = answer.horizon
    if horizon is None:
        return
    events = "no failure" if not horizon.events else count(horizon.events, "failure")
    bound = horizon.p_fail_bound
    share = f"at most {percent(bound)} of runs fail"
    if bound >= SAYS_NOTHING:
        share = "any share of runs may fail"
    yield (
        "HORIZON",
        f"{share} within {horizon.steps:,} steps "
        f"(95% bound at a constant hazard: {events} in {horizon.clean_steps:,} clean steps)",
    )


def _stabilisers(found: tuple[Stabiliser, ...]) -> Iterator[str]:
    decided = [each for each in found if each.octaves_low > 0]
    for each in decided[: MAX_STABILISERS - 1]:
        yield (
            f"{each.param} {number(each.value)} instead of {number(each.against)}: the edge is "
            + _how_much_higher(each)
        )
    rest = [each.param for each in found if each not in decided]
    if rest:
        yield f"undecided by these trials: {', '.join(rest)}"


def _how_much_higher(found: Stabiliser) -> str:
    if not (found.nothing_failed or found.nothing_stable):
        return (
            f"{found.octaves:.1f} octaves (x{2.0**found.octaves:.1f}) higher (90% interval "
            f"{found.octaves_low:.1f} .. {found.octaves_high:.1f})"
        )
    why = []
    if found.nothing_failed:
        why.append(f"nothing failed with {number(found.value)}")
    if found.nothing_stable:
        why.append(f"nothing was stable with {number(found.against)}")
    least = found.octaves_low
    return f"at least {least:.1f} octaves (x{2.0**least:.1f}) higher: {', '.join(why)}"


# --- words ------------------------------------------------------------------------------------


def _distance(octaves: float) -> str:
    side = "below" if octaves >= 0 else "ABOVE"
    return f"{abs(octaves):.1f} octaves (x{2.0 ** abs(octaves):.1f}) {side}"


def _is_spread(clips: Sequence[float | None]) -> bool:
    """Whether they differ by an octave at least."""
    values = [math.inf if clip is None else clip for clip in clips]
    return len(values) > 1 and max(values) >= 2 * min(values)


def _elsewhere(params: Params) -> str:
    others = {name: value for name, value in params.items() if name != LEARNING_RATE}
    return f" at {setting_text(others)}" if others else ""
