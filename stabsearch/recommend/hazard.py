"""What the trials say of a longer training: a bound on P(fail by T) under a constant hazard.

Zero events in E clean steps bound the hazard per step by 3 / E at 95%, so that P(fail by T) is at
most 1 - exp(-3 T / E) (science.md 4.1-4); with events, 3 becomes the upper limit of a Poisson mean
(Garwood 1936).

Which trials count is chosen so that the bound errs to the safe side: those of the setting, and
those nearer to the edge that few runs fail at, whose hazard is no lower. Without clipping the
hazard is highest at moderate rates, and where failure does not grow with the learning rate a
higher one says nothing, so that only the setting's own trials count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stabsearch.recommend.candidates import Candidate
from stabsearch.recommend.edge_process import SAME_OCTAVES
from stabsearch.recommend.evidence import never_learned
from stabsearch.recommend.space import LEARNING_RATE
from stabsearch.records import Horizon, TrialRecord

CONFIDENCE = 0.95


def horizon_of(pick: Candidate, study: Mapping[str, Any]) -> Horizon | None:
    """The statement for ``horizon_steps``; None where the study names none."""
    steps = study.get("horizon_steps")
    if not steps:
        return None
    counted = counted_trials(pick)
    lower = [
        record
        for record in pick.landscape.records
        if pick.landscape.fails_by_rate and record not in counted and _above(pick, record) < 0
    ]
    clean = sum(_clean_steps(record, pick) for record in counted)
    events = sum(pick.landscape.is_unstable(record) for record in (*counted, *lower))
    return Horizon(
        steps=int(steps),
        clean_steps=clean,
        events=events,
        p_fail_bound=fail_bound(events, clean, int(steps)),
    )


def counted_trials(pick: Candidate) -> list[TrialRecord]:
    """Trials whose hazard is no lower than that of the setting, on the safe side of the edge."""
    margin = math.inf if pick.margin is None else pick.margin
    is_by_rate = pick.is_guarded and pick.landscape.fails_by_rate
    return [
        record
        for record in pick.landscape.records
        if record.has_result
        and (pick.landscape.is_unstable(record) or not never_learned(record))
        and (
            record.setting == pick.setting
            or (
                is_by_rate
                and (pick.landscape.edge is not None or _differs_by_rate(pick, record))
                and -SAME_OCTAVES <= _above(pick, record) <= margin
            )
        )
    ]


def fail_bound(events: int, clean_steps: int, steps: int) -> float:
    """95% upper bound of P(fail by ``steps``)."""
    if clean_steps <= 0:
        return 1.0
    return 1 - math.exp(-poisson_limit(events) * steps / clean_steps)


def poisson_limit(events: int) -> float:
    """The mean at which so few events or fewer have a chance of 5%: 3.0 for none."""
    low, high = 0.0, 10.0 + 3.0 * events
    for _ in range(60):
        mean = (low + high) / 2
        terms = (math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(events))
        p = sum(terms) + math.exp(-mean + events * math.log(mean) - math.lgamma(events + 1))
        low, high = (mean, high) if p > 1 - CONFIDENCE else (low, mean)
    return high


def _above(pick: Candidate, record: TrialRecord) -> float:
    """Octaves by which a trial is nearer to the edge than the pick."""
    landscape = pick.landscape
    return landscape.height(record.params) - landscape.height(pick.params)


def _differs_by_rate(pick: Candidate, record: TrialRecord) -> bool:
    """Alone: without an edge nothing says how it moves with other parameters."""
    return all(
        record.params.get(name) == value
        for name, value in pick.params.items()
        if name != LEARNING_RATE
    )


def _clean_steps(record: TrialRecord, pick: Candidate) -> int:
    if pick.landscape.is_unstable(record):
        return min(record.verdict_step or record.steps, record.steps)
    return record.steps
