"""Truth tables of the rules beyond R1: what is poor or broken, without being unstable.

Hand-made trials of 2,000 steps, a report every 25, an evaluation every 100; see reports.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stabsearch.records import SamplerCheck, Severity, Symptom
from stabsearch.stability.analyzer import Analyzer
from stabsearch.stability.judges import make_judge
from tests.stability.reports import NUM_BINS, evaluation, facts, report

HEALTHY = (0.5, 0.12, 0.05, 0.05)
"""Held-out losses. The best single gain has (0.6, 0.15, 0.04, 0.01)."""
NAN = (math.nan,) * NUM_BINS


def trial(*, loss=None, held_out=HEALTHY, until=2000, every_evaluation=None, each=None):
    """Reports of a trial that learned quickly and stays at 0.18, below L_iso = 0.2.

    ``loss`` is a function of the step, ``each`` gives changes of every report by step and
    ``every_evaluation`` of every evaluation.
    """
    reports = []
    for step in range(25, until + 1, 25):
        value = loss(step) if loss else 0.18 + 0.8 * math.exp(-step / 60)
        probe = None
        if step % 100 == 0:
            shuffled = 0.3 if step in (500, 1000, 2000) else None
            changes = {"shuffled_loss": shuffled} | (every_evaluation or {})
            if shuffled is None:
                changes["shuffled_loss"] = None
            probe = evaluation(held_out, **{"kappa": 0.95} | changes)
        bins = {"bin_loss": tuple(value / 0.18 * held for held in HEALTHY)}
        changes = bins | (each(step) if each else {})
        reports.append(report(step, value, evaluation=probe, **changes))
    return reports


def said(rule, reports, **fact_changes):
    """(symptom, severity, first step) of what one rule says."""
    analyzer = Analyzer(facts(**fact_changes))
    judged = [analyzer.judge(r) for r in reports]
    return [
        (v.symptom, v.severity, item.report.step)
        for item in judged
        for v in item.verdicts
        if v.rule == rule
    ]


def test_a_healthy_trial_gets_no_verdict():
    analyzer = Analyzer(facts(lr_schedule="cosine"))

    assert [v for r in trial() for v in analyzer.judge(r).verdicts] == []


def test_what_is_not_measured_is_no_symptom():
    """A loop of one's own without evaluation, norms, gradients or averages."""
    unmeasured = {
        "grad_norm_median": math.nan,
        "grad_norm_max": math.nan,
        "bin_grad_norm": NAN,
        "bin_grad_count": (0,) * NUM_BINS,
        "evaluation": None,
        "batch_losses": (),
        "grad_norms": (),
    }
    losses = [(step, 0.18 + 0.8 * math.exp(-step / 60)) for step in range(25, 2001, 25)]
    reports = [report(step, loss, **unmeasured) for step, loss in losses]
    analyzer = Analyzer(facts(ema_schedule=None, ema_decay=None, ema_sigma_rel=None, eval_rows=0))

    assert [v for r in reports for v in analyzer.judge(r).verdicts] == []


# --- R2 ---------------------------------------------------------------------------------------
# A straight line of loss over log2 step from 100 steps on; it ends at ``end`` after 2,000.


def towards(end, fall_per_doubling=0.05):
    return lambda step: end + fall_per_doubling * math.log2(2000 / max(step - 12.5, 12.5))


@pytest.mark.parametrize(
    ("end", "changes", "expected"),
    [
        (0.26, {}, Severity.WARN),
        (0.24, {}, None),
        (0.26, {"reached": ((2000, 0.1),)}, Severity.PENALISE),
        (0.26, {"reached": ((2000, 0.3),)}, None),
        (0.49, {"reached": ((2000, 0.3),)}, Severity.PENALISE),
        (0.26, {"lr_schedule": "cosine"}, None),
    ],
    ids=["above L_iso", "within its slack", "peers do better", "peers do no better",
         "above what peers do", "the decay bends it down"],
)  # fmt: skip
def test_loss_stuck(end, changes, expected):
    found = said("R2", trial(loss=towards(end), until=1000), **changes)

    assert [severity for _, severity, _ in found] == ([] if expected is None else [expected])
    assert all(step >= 300 for _, _, step in found)


# --- R3 and the gauge -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kappa", "expected"),
    [
        (0.80, Symptom.LEARNING_RATE_HIGH),
        (0.93, None),
        (1.05, Symptom.LEARNING_RATE_LOW),
    ],
)
def test_kappa_steers(kappa, expected):
    found = said("R3", trial(every_evaluation={"kappa": kappa}), eval_rows=100)

    assert {symptom for symptom, _, _ in found} == ({expected} if expected else set())
    assert all(severity is Severity.STEER for _, severity, _ in found)


def test_one_evaluation_does_not_steer():
    reports = trial(until=400)
    odd = [r for r in reports if r.step != 300]
    off = evaluation(HEALTHY, kappa=0.7)
    odd.insert(11, report(300, 0.18, evaluation=off))

    assert said("R3", odd) == []


def test_a_dead_trial_has_no_gauge():
    """Its weights stand still, so that kappa is 1 whatever the learning rate."""
    analyzer = Analyzer(facts())
    dead = trial(loss=lambda _step: 1.0, held_out=(1.0,) * 4)

    assert {analyzer.judge(r).report.lr_gauge_octaves for r in dead} == {None}


def test_the_gauge_is_written_into_reports_with_an_evaluation():
    analyzer = Analyzer(facts())
    judged = [analyzer.judge(r).report for r in trial()]

    assert judged[-1].lr_gauge_octaves == pytest.approx(-0.01 / 0.04)
    assert judged[-2].lr_gauge_octaves is None


# --- R4, R5, R5b, R6, R8: single timesteps ----------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "held_out", "changes", "expected"),
    [
        ("R4", (0.76, 0.1, 0.05, 0.05), {}, (Symptom.CLEAN_TIMESTEPS_HIGH, Severity.WARN)),
        ("R4", (0.74, 0.1, 0.05, 0.05), {}, None),
        ("R4", (0.76, 0.1, 0.05, 0.05), {"bin_share": (0.01, 0.33, 0.33, 0.33)}, None),
        ("R4", (0.76, 0.1, 0.05, 0.05), {"eval_rows": 63}, None),
        ("R4", (0.76, 0.1, 0.05, 0.05), {"reached": ((25, 0.25),)}, None),
        ("R5", (0.5, 0.1, 0.05, 0.081), {}, (Symptom.NOISY_TIMESTEPS_HIGH, Severity.PENALISE)),
        ("R5", (0.5, 0.1, 0.05, 0.079), {}, None),
        ("R5", (0.5, 0.1, 0.05, 0.013), {"prediction_type": "v_prediction"},
         (Symptom.NOISY_TIMESTEPS_HIGH, Severity.PENALISE)),
        ("R5", (0.5, 0.1, 0.05, 0.012), {"prediction_type": "v_prediction"}, None),
        ("R5", (0.5, 0.1, 0.05, 0.2), {"bin_share": (0.33, 0.33, 0.33, 0.01)}, None),
        ("R8", (0.5, 0.12, 0.16, 0.05), {}, (Symptom.DEAD_TIMESTEPS, Severity.PENALISE)),
        ("R8", (0.5, 0.12, 0.12, 0.05), {}, None),
        ("R8", (0.5, 0.12, 0.05, 0.95), {}, None),  # it has a gradient: slow, not dead
    ],
)  # fmt: skip
def test_single_timesteps(rule, held_out, changes, expected):
    gradients = {"bin_grad_norm": (1.0,) * 4, "bin_grad_count": (40,) * 4}
    found = said(rule, trial(held_out=held_out, each=lambda _step: gradients), **changes)

    assert [(symptom, severity) for symptom, severity, _ in found] == (
        [] if expected is None else [expected]
    )
    assert all(step >= 600 for _, _, step in found)  # from 25% of the budget, twice in a row


def test_a_bin_without_gradient_that_did_not_improve_is_dead():
    gradients = {"bin_grad_norm": (1.0, 1.0, 1.0, 0.001), "bin_grad_count": (40,) * 4}
    found = said("R8", trial(held_out=(0.5, 0.12, 0.05, 0.95), each=lambda _step: gradients))

    assert [symptom for symptom, _, _ in found] == [Symptom.DEAD_TIMESTEPS]


@pytest.mark.parametrize(
    ("error", "prediction_type", "expected"),
    [(1.6, "epsilon", 1), (1.4, "epsilon", 0), (9.0, "v_prediction", 0), (math.nan, "epsilon", 0)],
)
def test_amplified_errors_are_said_once_of_epsilon(error, prediction_type, expected):
    errors = {"bin_x0_error": (0.1, 0.1, 0.1, error)}
    found = said("R5b", trial(every_evaluation=errors), prediction_type=prediction_type)

    assert [severity for _, severity, _ in found] == [Severity.WARN] * expected


@pytest.mark.parametrize(
    ("shuffled", "prediction_type", "expected"),
    [
        (0.1805, "epsilon", [Severity.PENALISE]),
        (0.1805, "flow", [Severity.WARN]),
        (0.1815, "epsilon", []),
    ],
)
def test_wrong_timesteps_must_raise_the_loss(shuffled, prediction_type, expected):
    """Held-out loss 0.18: 0.3% is blind, 0.8% is not. Asked at 25%, 50% and 100%."""
    reports = trial(every_evaluation={"shuffled_loss": shuffled})
    found = said("R6", reports, prediction_type=prediction_type)

    assert [severity for _, severity, _ in found] == expected
    assert all(step == 1000 for _, _, step in found)


@pytest.mark.parametrize(
    ("sensitivities", "expected"),
    [
        ((0.0026, 0.0169, 0.0485), []),  # SGD at a low learning rate, which ends well
        ((0.0006, 0.0018, 0.0040), []),
        ((0.0158, 0.0126, 0.0067), []),  # an MLP or DiT narrower than its data
        ((0.0020, 0.0039, 0.0045), [1000]),
        ((0.0003, 0.0012, 0.0015), [1000]),  # a rise within the noise
        ((0.0100, 0.0040, 0.0030), [2000]),
        ((-0.001, 0.0010, 0.0000), [1000]),
    ],
)
def test_a_model_that_is_still_learning_to_use_the_timestep_is_not_blind(sensitivities, expected):
    """At 25%, 50% and 100%."""
    shuffled = dict(zip((500, 1000, 2000), sensitivities, strict=True))
    reports = [
        replace(r, evaluation=replace(r.evaluation, shuffled_loss=0.18 * (1 + shuffled[r.step])))
        if r.step in shuffled
        else r
        for r in trial(held_out=(0.18,) * NUM_BINS)
    ]

    assert [step for _, _, step in said("R6", reports)] == expected


def test_the_rise_of_a_blind_model_s_loss_is_not_below_nothing():
    analyzer = Analyzer(facts())
    judged = [analyzer.judge(r) for r in trial(every_evaluation={"shuffled_loss": 0.17995})]
    (reason,) = [v.reason for item in judged for v in item.verdicts if v.rule == "R6"]

    assert "raise the held-out loss by 0.0% only" in reason


def test_a_model_that_has_learned_nothing_is_not_called_blind():
    reports = trial(held_out=(0.9, 0.6, 0.6, 0.6), every_evaluation={"shuffled_loss": 0.675})

    assert said("R6", reports) == []


# --- R7 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((5.3, 1.0, 1.0, 1.0), [Symptom.EARLY_TIMESTEP_DOMINATION]),  # 28 of 31: 90.4%
        ((1.0, 1.0, 1.0, 5.3), [Symptom.LATE_TIMESTEP_DOMINATION]),
        ((1.0, 5.3, 1.0, 1.0), [Symptom.TIMESTEP_DOMINATION]),
        ((4.7, 1.0, 1.0, 1.0), []),  # 88%, as if 1.28 bins
        ((2.6, 1.0, 0.01, 0.01), []),  # 87%, as if 1.29 bins
        ((2.85, 1.0, 0.01, 0.01), [Symptom.EARLY_TIMESTEP_DOMINATION]),  # 89%, as if 1.24
        (NAN, []),
    ],
)
def test_timestep_domination(norms, expected):
    counts = (0,) * 4 if norms is NAN else (40,) * 4
    found = said(
        "R7",
        trial(each=lambda _step: {"bin_grad_norm": norms, "bin_grad_count": counts}, until=500),
    )

    assert [symptom for symptom, _, _ in found] == expected
    assert all(severity is Severity.PENALISE for _, severity, _ in found)
    assert all(step >= 200 for _, _, step in found)  # twice 512 samples, of 160 a report


# --- R9 to R15 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "first", "expected"),
    [(0.06, 500, 1), (0.04, 500, 0), (0.9, 0, 1)],
    ids=["often", "seldom", "early too"],
)
def test_gradient_outliers_in_the_settled_part(rate, first, expected):
    def each(step):
        return {"outlier_norm_rate": rate if step > first else 0.0}

    found = said("R9", trial(each=each))

    assert len(found) == expected
    assert all(step >= 900 for _, _, step in found)  # two stretches of 200 steps after 25%


def test_norms_that_grow_early_are_no_outliers():
    assert said("R9", trial(each=lambda step: {"outlier_norm_rate": 0.9 * (step <= 500)})) == []


@pytest.mark.parametrize(
    ("schedule", "kappa", "expected"),
    [("fixed", 1.3, 1), ("fixed", 1.1, 0), ("ramped", 1.3, 0), (None, 1.3, 0)],
)
def test_an_average_of_fixed_decay_can_be_too_long(schedule, kappa, expected):
    found = said("R10", trial(every_evaluation={"kappa": kappa}), ema_schedule=schedule)

    assert [s for s, _, _ in found] == [Symptom.EMA_TOO_LONG] * expected


@pytest.mark.parametrize(
    ("mean_z2", "log_variance", "expected"),
    [(0.9, 0.1, 0), (3.1, 0.0, 1), (0.9, -0.21, 1), (0.9, 0.21, 1), (math.inf, math.nan, 1),
     (math.nan, 0.0, 1)],
)  # fmt: skip
def test_a_sampler_that_does_not_fit_is_said_at_the_start(mean_z2, log_variance, expected):
    check = SamplerCheck(name="mine", mean_z2=mean_z2, log_variance=log_variance)
    found = said("R11", trial(), sampler_check=check)

    assert found == [(Symptom.SAMPLER_MISMATCH, Severity.WARN, 25)] * expected


@pytest.mark.parametrize(
    ("kappa", "fall", "schedule", "expected"),
    [(0.95, 0.06, "constant", 0), (0.95, 0.01, "constant", 0), (0.95, 0.09, "constant", 1),
     (1.03, 0.0, "constant", 1), (1.03, 0.09, "cosine", 0)],
)  # fmt: skip
def test_undertrained_at_the_end(kappa, fall, schedule, expected):
    """u is 0.065: half of it per doubling is 0.0325 ... the bar is in units of u."""
    unit = 0.2 - 0.135
    reports = trial(
        loss=towards(0.15, fall * 0.5 * unit / 0.065), every_evaluation={"kappa": kappa}
    )
    found = said("R12", reports, lr_schedule=schedule)

    assert found == [(Symptom.UNDERTRAINED, Severity.WARN, 2000)] * expected


@pytest.mark.parametrize(("train", "expected"), [(0.50, 1), (0.56, 0)])
def test_memorising_shows_in_the_cleanest_bins(train, expected):
    """Held-out 0.5 + 0.12; the bar is 0.85 of it, 0.527, over both bins."""
    losses = (train - 0.02, 0.02, 0.05, 0.05)
    found = said("R13", trial(each=lambda _step: {"bin_loss": losses}))

    assert [s for s, _, _ in found] == [Symptom.MEMORISING] * expected
    assert all(step >= 1100 for _, _, step in found)


@pytest.mark.parametrize(
    ("rule", "changes", "symptom"),
    [
        ("R14", {"terminal_kl": 0.011}, Symptom.TERMINAL_SIGNAL),
        ("R14", {"terminal_kl": 0.009}, None),
        ("R14b", {"schedule_error": 2e-3}, Symptom.IMPRECISE_SCHEDULE),
        ("R14b", {"schedule_error": math.nan}, Symptom.IMPRECISE_SCHEDULE),
        ("R14b", {"schedule_error": 1e-7}, None),
    ],
)
def test_the_noise_schedule_is_judged_at_the_start(rule, changes, symptom):
    found = said(rule, trial(until=50), **changes)

    assert found == ([] if symptom is None else [(symptom, Severity.WARN, 25)])


def test_frozen_parameters_are_named():
    analyzer = Analyzer(facts())
    names = ("a.weight", "b.weight", "c.weight", "d.weight")
    [verdict] = analyzer.judge(report(25, 0.9, frozen_parameters=names)).verdicts

    assert (verdict.rule, verdict.symptom) == ("R15", Symptom.FROZEN_PARAMETERS)
    assert verdict.reason.endswith("a.weight, b.weight, c.weight and 1 more")


# --- thresholds -------------------------------------------------------------------------------


def test_a_changed_threshold_changes_the_verdict():
    losses = [1.0, 0.7, 0.4, 0.3, 0.25, 0.25, *[0.58] * 4]
    lost = [report(25 * (i + 1), loss) for i, loss in enumerate(losses)]

    def severities(**settings):
        judge = make_judge(settings, facts())
        found = [v for r in lost for v in judge.judge(r).verdicts]
        return {v.severity for v in found if v.rule == "R1b"}

    assert severities() == {Severity.PENALISE}
    assert severities(preset="strict") == {Severity.PENALISE, Severity.PRUNE}
    assert severities(thresholds={"R1b.prune": 0.43}) == {Severity.PENALISE, Severity.PRUNE}
    assert severities(preset="lenient", thresholds={"R1b.penalise": 0.6}) == set()


def test_a_report_costs_no_state_but_the_trends():
    """Ten thousand reports, and what a checkpoint holds besides the trends is as before."""

    def size(state):
        trends = ("log_loss", "loss")
        return len(str({k: v for k, v in state["window"].items() if k not in trends}))

    analyzer = Analyzer(facts(max_train_steps=500_000))
    rng = np.random.default_rng(0)
    sizes = []
    for i in range(1, 3001):
        analyzer.judge(report(25 * i, 0.18 + 0.01 * rng.random()))
        if i in (1000, 3000):
            sizes.append(size(analyzer.state_dict()))

    assert sizes[1] < 1.1 * sizes[0]
