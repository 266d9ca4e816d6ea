"""A study's results in, its Recommendation out.

The pick is the stable setting whose *worst* predicted score within the study's margin (one octave)
is lowest, among those that are unlikely to fail that far above their learning rate. A tuner's
answer, the setting with the best score, tends to lie next to the edge, where the loss is lowest
until it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stabsearch.recommend.candidates import Candidate
from stabsearch.recommend.choice import choice_of
from stabsearch.recommend.clipping import clip_edges, clip_meaning
from stabsearch.recommend.combinations import notes_on_combinations, unjudged_of
from stabsearch.recommend.confirm import confirmation_of, notes_on_confirmation
from stabsearch.recommend.hazard import horizon_of
from stabsearch.recommend.landscape import margin_octaves
from stabsearch.recommend.notes import notes_on_pick, notes_on_sampler, notes_on_study
from stabsearch.recommend.sensitivity import lr_sensitivity
from stabsearch.recommend.space import LEARNING_RATE, learning_rate_of
from stabsearch.recommend.stabilise import stabilisers_of
from stabsearch.recommend.tuner import tuner_fields, tuners_choice
from stabsearch.records import Edge, Recommendation, TrialRecord
from stabsearch.results.frames import Results

MAX_EDGE_TRIALS = 4


def recommend(results: Results) -> Recommendation:
    """The answer of a study as far as its trials go; of a running study, so far."""
    answer = recommend_from(results.records(), results.study)
    if not results.study.get("sampler"):
        return answer
    return replace(answer, notes=(*notes_on_sampler(results.verdicts), *answer.notes))


def recommend_from(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> Recommendation:
    """The answer that follows from some trials of the resolved ``study``."""
    choice = choice_of(records, study)
    pick, tuners = choice.pick, tuners_choice(records)
    ended = [r for r in records if r.has_result]
    unstable = [r.trial_id for r in records if choice.is_unstable(r)]
    unjudged = unjudged_of(choice, study)
    answer: dict[str, Any] = {"params": None, "trial_id": None, "num_seeds": choice.num_seeds}
    if pick is not None:
        answer |= _of_the_pick(pick) | {
            "edges": tuple(clip_edges(pick.landscape, pick.params, study)),
            "lr_sensitivity": lr_sensitivity(pick.landscape, pick.params),
            "clip_meaning": clip_meaning(pick, study),
            "horizon": horizon_of(pick, study),
            "stabilisers": tuple(
                stabilisers_of(choice.landscapes, pick.landscape, pick.params, study)
            ),
        }
    if tuners is not None:
        answer |= tuner_fields(choice, tuners)
    is_precise = _is_precise(answer.get("edge"), study)
    notes = [
        *notes_on_confirmation(choice),
        *notes_on_study(choice.space, choice.landscapes, choice.candidates),
        *notes_on_combinations(unjudged, records, study, is_precise=is_precise),
    ]
    if pick is not None:
        notes += notes_on_pick(pick, choice, study)
    return Recommendation(
        **answer,
        confirmation=confirmation_of(choice, study),
        margin_asked=margin_octaves(study),
        is_precise=is_precise,
        unstable_trial_ids=tuple(unstable),
        num_trials=len(records),
        num_unstable=len(unstable),
        num_unjudged=unjudged.num if unjudged else 0,
        steps_spent=sum(r.steps for r in ended),
        steps_budgeted=sum(r.max_train_steps for r in ended),
        notes=tuple(notes),
    )


def edge_precision(
    records: Sequence[TrialRecord], study: Mapping[str, Any], *, with_surface: bool = False
) -> float | None:
    """Half of the 90% interval of the edge, in octaves, at the setting that would be recommended.

    None where no setting could be, and without an edge. Without a surface of scores it may be
    asked after every trial, and is that of another setting at times.
    """
    pick = choice_of(records, study, with_surface=with_surface).pick
    edge = pick.landscape.edge_at(pick.params) if pick is not None else None
    return edge.half_width_octaves if edge else None


def _is_precise(edge: Edge | None, study: Mapping[str, Any]) -> bool | None:
    asked: Mapping[str, Any] | None = study.get("stop_when")
    if not asked:
        return None
    within = float(asked["edge_within_octaves"])
    return edge is not None and edge.half_width_octaves <= within


def _of_the_pick(pick: Candidate) -> dict[str, Any]:
    landscape = pick.landscape
    region = landscape.stable_region(pick.params)
    plateau = landscape.plateau(pick.params, region) if region else None
    return {
        "params": pick.params,
        "trial_id": pick.best_trial.trial_id,
        "num_stable_seeds": len(pick.trials),
        "num_failed_seeds": pick.num_failed,
        "num_seeds": pick.num_seeds,
        "score": pick.score,
        "trial_score": pick.best_trial.score,
        "worst_score": pick.worst_score,
        "region_low": region[0] if region else None,
        "region_high": region[1] if region else None,
        "plateau_low": plateau[0] if plateau else None,
        "plateau_high": plateau[1] if plateau else None,
        "edge": landscape.edge_at(pick.params),
        "margin_octaves": pick.margin,
        "p_unstable": landscape.p_unstable(pick.params),
        "p_unstable_doubled": pick.p_doubled,
        "is_safe": pick.is_safe,
        "edge_trial_ids": _edge_trials(pick),
    }


def _edge_trials(pick: Candidate) -> tuple[str, ...]:
    """Unstable trials at higher learning rates, nearest first."""
    space = pick.landscape.space
    axis = space.axis(LEARNING_RATE)
    if axis is None:
        return ()
    own = learning_rate_of(pick.params)
    above = [
        record
        for record in pick.landscape.records
        if pick.landscape.is_unstable(record) and learning_rate_of(record.params) > own
    ]
    # An octave of learning rate is as far as two of any other: scores and edge change slower.
    reach = np.array([1.0 if a is axis else 2.0 if a.is_log else 0.25 for a in space.axes])
    distances = (space.points([r.params for r in above]) - space.points([pick.params])) / reach
    order = np.argsort((distances**2).sum(axis=1), kind="stable")
    return tuple(above[index].trial_id for index in order[:MAX_EDGE_TRIALS])
