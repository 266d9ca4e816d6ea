"""Why a trial counts as unstable that its own reports do not call so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stabsearch.recommend.neighbours import comparisons_of
from stabsearch.recommend.pick import recommend_from
from stabsearch.records import Outcome, Severity, StoppedBy, Symptom
from tests import synthetic_study as synthetic

STUDY = {"space": synthetic.SPACE, "trainer": {"clipping": "global_norm", "optimizer": "adamw"}}
NEVER = {
    "outcome": Outcome.STOPPED, "stopped_by": StoppedBy.GATE, "severity": Severity.PRUNE,
    "rule": "R1c", "symptom": str(Symptom.NOT_LEARNING),
}  # fmt: skip


def short(number, rate, score):
    shown = {"score": score, "looks": (synthetic.look(score),)}
    return synthetic.record(number, learning_rate=rate, **(synthetic.SHORT | shown))


def test_a_short_trial_is_compared_by_the_scores_at_its_end():
    records = [
        *(short(n, 1e-3 * 2**n, 4.0 - n / 10) for n in range(4)),
        short(9, 0.1, 6.2),
        synthetic.diverged(10, learning_rate=0.2),
    ]
    (found,) = comparisons_of(records, STUDY).values()

    assert str(found) == (
        "counts as unstable in the answer: by step 200 its score was 6.2, no better than the 6 of "
        "a constant prediction, where 4 trials at lower rates had learned: 0003-0, learning_rate "
        "8e-3, score 3.7 by then; 0002-0, learning_rate 4e-3, score 3.8 by then; 0001-0, "
        "learning_rate 2e-3, score 3.9 by then; ..."
    )


def test_a_trial_that_never_learned_is_compared_by_that():
    records = [synthetic.record(0), synthetic.record(1, learning_rate=0.1, score=4.0, **NEVER)]
    (found,) = comparisons_of(records, STUDY).values()

    assert str(found) == (
        "counts as unstable in the answer: it never learned (R1c not_learning), where 1 trial at "
        "a lower rate had learned: 0000-0, learning_rate 1e-3"
    )


@pytest.mark.parametrize("kind", ["words", "rates", "plain"])
def test_it_names_those_that_the_answer_counts_as_unstable(kind):
    """All but those that are so by a verdict of their own; words are judged apart."""
    records = synthetic.never_learning_above(synthetic.draw(48, seed=3), gated=True)
    study = STUDY
    if kind == "words":
        study = STUDY | {"space": synthetic.SPACE | {"kind": {"choice": ["a", "b"]}}}
        records = [replace(r, params=r.params | {"kind": "ab"[r.setting % 2]}) for r in records]
    if kind == "rates":  # not searched: nothing compares
        study = STUDY | {"space": {"max_grad_norm": synthetic.SPACE["max_grad_norm"]}}
    found = comparisons_of(records, study)

    if kind == "rates":
        assert not found
    else:
        own = {record.trial_id for record in records if record.is_unstable}
        assert found
        assert found.keys() == set(recommend_from(records, study).unstable_trial_ids) - own
