"""Truth tables: what each rule says of a loss curve, and that it says nothing of the next one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from stabsearch.records import Severity, Symptom
from stabsearch.stability.analyzer import Analyzer
from stabsearch.stability.rules import RULES
from stabsearch.stability.window import TrialWindow
from tests.stability.reports import REFERENCE, curve, evaluation, facts, nan_report, report

FALLING = [1.0, 0.9, 0.7, 0.5, 0.4, 0.35, 0.3, 0.28, 0.26, 0.25]
"""To 250 steps; past warm-up (100) and R1c's earliest step (200)."""


def verdicts(reports, rule=None, **fact_changes):
    analyzer = Analyzer(facts(**fact_changes))
    found = [(r.step, v) for r in reports for v in analyzer.judge(r).verdicts]
    return [(step, v) for step, v in found if rule in (None, v.rule)]


def test_every_rule_has_its_own_id_and_advice():
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(text for rule in RULES for text in rule.advice.values())


def test_healthy_curve_gets_no_verdict():
    assert verdicts(curve([*FALLING, 0.24, 0.26, 0.25, 0.24])) == []


# --- R1a --------------------------------------------------------------------------------------


def test_nan_is_pruned_at_the_first_report_with_its_own_step_and_bin():
    [(step, verdict)] = verdicts([*curve([0.9, 0.8]), nan_report(75, 61)])

    assert step == 75
    assert (verdict.rule, verdict.symptom) == ("R1a", Symptom.NON_FINITE)
    assert verdict.severity is Severity.PRUNE
    assert verdict.step == 61
    assert (verdict.timestep_low, verdict.timestep_high) == (750, 999)
    assert "step 61" in verdict.reason
    assert "timesteps 750-999" in verdict.reason


@pytest.mark.parametrize(
    ("step", "advice"),
    [(1, "no learning rate is at fault"), (2, "Lower the learning rate 4 times")],
)
def test_nan_before_any_step_is_not_the_rate_s_fault(step, advice):
    [(_, verdict)] = verdicts([nan_report(25, step)])

    assert advice in verdict.advice


def test_an_evaluation_that_is_not_finite_is_a_finding_too():
    nan = (math.nan,) * 4
    broken = evaluation(nan, score_raw=math.nan, score_ema=math.nan)
    [(_, verdict)] = verdicts([report(25, 0.5, evaluation=broken)])

    assert (verdict.rule, verdict.step) == ("R1a", 25)


def test_nan_gradient_alone_has_no_timesteps():
    [(_, verdict)] = verdicts([nan_report(25, 3, bins=())])

    assert verdict.timestep_bin is None
    assert verdict.timestep_low is None
    assert "timesteps" not in verdict.reason


@pytest.mark.parametrize(
    ("changes", "skips_nonfinite", "step", "expected"),
    [
        ({"nonfinite_steps": 1}, False, 50, Severity.PRUNE),
        ({"nonfinite_steps": 1}, True, 50, Severity.WARN),
        ({"nonfinite_steps": 25}, True, 50, Severity.WARN),
        ({"nonfinite_steps": 26}, True, 50, Severity.PRUNE),
        ({"scaler_skips": 25}, False, 50, None),
        ({"scaler_skips": 26}, False, 50, Severity.PRUNE),
        ({"scaler_skips": 25}, False, 25, None),  # a new loss scaler looks for its scale
        ({"nonfinite_steps": 14, "scaler_skips": 14}, True, 50, Severity.PRUNE),
    ],
)
def test_skipped_steps_are_tolerated_until_most_of_a_report_is_skipped(
    changes, skips_nonfinite, step, expected
):
    found = verdicts([report(step, 0.5, **changes)], skips_nonfinite=skips_nonfinite)

    assert [v.severity for _, v in found] == ([] if expected is None else [expected])


def test_a_single_skip_is_not_most_of_a_short_report():
    """With report_every 1, a skipped step is all of its report."""
    reports = [report(step, 0.5, scaler_skips=int(step == 47)) for step in range(1, 80)]

    assert verdicts(reports, report_every=1) == []


def test_a_standing_loss_scaler_is_told_in_words_of_its_own():
    [(_, verdict)] = verdicts(
        [report(25, 0.5), report(50, 0.5, scaler_skips=25), report(75, 0.5, scaler_skips=25)]
    )

    assert verdict.reason.startswith("loss scaling skips most steps")


def test_nan_does_not_poison_what_comes_after():
    """Judged again without the gate, a later loss of progress is still seen."""
    reports = curve(FALLING)
    reports[2] = nan_report(75, 60)
    later = [report(275, 0.9), report(300, 0.9)]

    assert [v.rule for _, v in verdicts(reports + later)] == ["R1a", "R1b", "R1b", "R1c"]


# --- R1b --------------------------------------------------------------------------------------
# After FALLING the minimum is 0.25: the scale is C0 - min = 0.75. "Current" is a mean of two.


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([0.35, 0.35], []),
        ([0.39, 0.39], []),
        ([0.41, 0.41], [Severity.PENALISE]),
        ([0.62, 0.62], [Severity.PENALISE]),
        ([0.64, 0.64], [Severity.PENALISE, Severity.PRUNE]),
        ([0.95, 0.95], [Severity.PENALISE, Severity.PRUNE]),
        ([1.50, 1.50], [Severity.PRUNE]),
        ([0.54, 0.25], []),
    ],
    ids=["lost 13%", "19%", "21%", "49%", "52%", "93%", "beyond", "a spike that recovers"],
)
def test_lost_progress(tail, expected):
    found = verdicts(curve(FALLING + tail), rule="R1b")

    assert [v.severity for _, v in found] == expected


@pytest.mark.parametrize(("steps_of_warmup", "expected_step"), [(0, 75), (100, 150), (150, 200)])
def test_lost_progress_is_not_judged_before_warm_up_and_two_windows(
    steps_of_warmup, expected_step
):
    found = verdicts(curve([0.5, 0.4] + [1.2] * 10), rule="R1b", lr_warmup_steps=steps_of_warmup)

    assert found[0][0] == expected_step


def test_a_trial_that_hardly_moved_does_not_lose_all_of_nothing():
    """Progress .02 of a possible .8: the scale is half of the possible progress."""
    assert verdicts(curve([1.0, 0.98, 0.98] + [1.05] * 5), rule="R1b") == []


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([9.0, 6.0, 4.0, 3.0, 3.3, 3.2, 3.4, 3.3], []),
        ([9.0, 8.8, 9.2, 9.1, 9.0, 9.1, 8.9, 9.2], []),
        ([9.0, 6.0, 4.0, 3.0, 4.5, 4.5], [Severity.PENALISE]),
        ([9.0, 6.0, 4.0, 3.0, 9.0, 9.0], [Severity.PRUNE]),
        ([9.0, 4.0, 1.1, 0.9, 1.5, 1.5], [Severity.PRUNE]),
        ([1.0, 3.0, 3.0, 4.0, 4.0, 4.0], [Severity.PRUNE]),
    ],
    ids=[
        "what it came down is the scale",
        "and half of what there is",
        "lost a quarter of that",
        "lost all of it",
        "below C0 that is the scale",
        "a low beginning is no scale",
    ],
)
def test_a_trial_that_began_far_above(losses, expected):
    found = verdicts(curve(losses), rule="R1b")

    assert [v.severity for _, v in found] == expected


@pytest.mark.parametrize(("loss", "words"), [(0.7, "lost 60% of its"), (2.0, "lost all of its")])
def test_lost_progress_is_said_in_words(loss, words):
    assert words in verdicts(curve([*FALLING, loss, loss]), rule="R1b")[-1][1].reason


@pytest.mark.parametrize("warmup_steps", [0, 100])
def test_a_steeply_falling_loss_has_lost_nothing(warmup_steps):
    """Its two-window mean is far above its minimum, which is its last window."""
    falling = [1.2, 0.7, 0.3, 0.15, 0.1, 0.1]

    assert verdicts(curve(falling), lr_warmup_steps=warmup_steps) == []


def test_lost_progress_names_the_bin_that_lost_most():
    reports = curve(FALLING)
    for step in (275, 300):
        reports.append(report(step, 0.7, bin_loss=(0.45, 0.3, 0.3, 1.75)))
    found = verdicts(reports, rule="R1b")

    assert (found[-1][1].timestep_low, found[-1][1].timestep_high) == (750, 999)


# --- R1c: bar 0.6, hopeless above 1.5 ---------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 8, [(Symptom.NOT_LEARNING, Severity.PRUNE)]),
        ([1.0] * 7, []),
        (np.geomspace(1.0, 0.85, 8).tolist(), []),
        ([1.0, 0.8, 0.7] + [0.59] * 5, []),
        ([1.0, 0.8] + [0.7] * 6, [(Symptom.NOT_LEARNING, Severity.WARN)]),
        ([1.0, 0.9] + [0.82] * 6, [(Symptom.NOT_LEARNING, Severity.PRUNE)]),
        ([1.0, 0.5, 1.0] + [1.0] * 5, [(Symptom.WORSE_THAN_TRIVIAL, Severity.PRUNE)]),
        ([9.0, 5.0, 1.1] + [1.0] * 5, [(Symptom.NOT_LEARNING, Severity.PRUNE)]),
        ([1.0, 9.0, 5.0] + [1.0] * 5, [(Symptom.WORSE_THAN_TRIVIAL, Severity.PRUNE)]),
        (np.geomspace(9.0, 1.6, 8).tolist(), []),
        (np.geomspace(4.0, 1.1, 8).tolist(), []),
        ([9.0] * 8, [(Symptom.NOT_LEARNING, Severity.PRUNE)]),
        ([9.0, 5.0] + [2.0] * 6, [(Symptom.NOT_LEARNING, Severity.PRUNE)]),
        ([1.0, *np.geomspace(9.0, 1.6, 7)], [(Symptom.WORSE_THAN_TRIVIAL, Severity.PRUNE)]),
        ([2.0, *np.geomspace(90.0, 1.6, 7)], [(Symptom.WORSE_THAN_TRIVIAL, Severity.PRUNE)]),
    ],
    ids=[
        "never moved",
        "too early to say",
        "slow but falling",
        "stuck below the bar",
        "stuck above the bar, but alive",
        "has hardly come down",
        "came down and went back",
        "started high and came to rest at a constant",
        "went up in warm-up and came to rest",
        "began far above, and is falling",
        "began above, and is falling to where a constant is",
        "began far above, and never moved",
        "began far above, and came to rest there",
        "far above, though falling",
        "began above, and rose from there",
    ],
)
def test_worse_than_trivial(losses, expected):
    found = verdicts(curve(losses), rule="R1c")

    assert [(v.symptom, v.severity) for _, v in found] == expected


@pytest.mark.parametrize(
    ("reached", "bar"),
    [
        ((), "half-way to a constant prediction"),
        (((25, 0.5),), "half-way from what other trials had by then to a constant prediction"),
        (((25, 0.9),), "that of a constant prediction"),
    ],
    ids=["alone", "others-learn", "others-hardly-do"],
)
def test_the_bar_is_called_what_it_is(reached, bar):
    [(_, verdict)] = verdicts(curve([1.01] * 8), rule="R1c", reached=reached)

    assert f", {bar}, and not falling" in verdict.reason


def test_not_learning_says_nothing_about_the_edge():
    [(_, verdict)] = verdicts(curve([1.0] * 8))

    assert not verdict.symptom.is_divergence
    assert "raise it" in verdict.advice


# --- R1d: threshold 3, from step warm-up + 100 on ---------------------------------------------


@pytest.mark.parametrize(
    ("step", "max_batch_loss", "max_grad_norm", "expected"),
    [
        (250, 3.1, None, [Severity.PRUNE]),
        (250, 3.1, 1.0, [Severity.PENALISE]),
        (250, 3.1, 4.1, [Severity.PRUNE]),
        (250, 2.9, None, []),
        (200, 9.0, None, []),
        (225, 3.1, None, [Severity.PRUNE]),
        (250, math.nan, None, []),
    ],
    ids=[
        "unclipped",
        "clipped",
        "clip far above the norms",
        "below",
        "in the grace",
        "first step after it",
        "nan",
    ],
)
def test_catastrophic_excursion(step, max_batch_loss, max_grad_norm, expected):
    reports = curve(FALLING[: step // 25 - 1])
    reports.append(report(step, 0.3, max_batch_loss=max_batch_loss))
    found = verdicts(reports, rule="R1d", max_grad_norm=max_grad_norm)

    assert [v.severity for _, v in found] == expected


# --- advice that looks at how it happened -----------------------------------------------------

LEARNT = [*FALLING, 0.25, 0.25, 0.25, 0.25]
"""350 steps of a healthy run."""


def rates(reports, learning_rate):
    return [dataclasses.replace(r, learning_rate=learning_rate) for r in reports]


@pytest.mark.parametrize("rule", ["R1a", "R1b", "R1c", "R1d"])
@pytest.mark.parametrize(
    ("learning_rate", "is_suspected"), [(1e-3, False), (1.9e-3, False), (2e-3, True), (0.3, True)]
)
def test_a_learning_rate_that_rose_since_the_lowest_loss_is_the_suspect(
    rule, learning_rate, is_suspected
):
    """Healthy to step 350, at 1e-3; whatever happens then, the rate is named if it rose."""
    broken = {
        "R1a": [nan_report(375, 360)],
        "R1b": [report(375, 0.9), report(400, 0.9)],
        "R1c": [report(375, 4.0), report(400, 4.0)],
        "R1d": [report(375, 0.3, max_batch_loss=9.0)],
    }
    [*_, (_, verdict)] = verdicts([*curve(LEARNT), *rates(broken[rule], learning_rate)], rule)
    words = f"{learning_rate / 1e-3:.2g} times what it was at step 250"

    assert (words in verdict.advice) is is_suspected
    assert ("check its schedule" in verdict.advice) is is_suspected


def test_a_learning_rate_that_warms_up_is_too_high_and_no_mistake():
    """The lowest loss came at a quarter of the peak, in warm-up (100 steps) or just after it."""
    lost = rates([report(25 * i, 1.5) for i in range(6, 12)], 1e-3)
    for num_reports, is_suspected in ((3, False), (5, True)):
        warm = rates(curve([1.0, 0.9, 0.8, 0.7, 0.6][:num_reports]), 2.5e-4)
        [*_, (_, verdict)] = verdicts([*warm, *lost], "R1c")

        assert ("check its schedule" in verdict.advice) is is_suspected
        assert "ower" in verdict.advice


@pytest.mark.parametrize(
    ("batch_losses", "is_broken_data"),
    [
        ((0.3, 9.0, 0.3, 0.3), True),
        ((9.0, 0.3, 9.0, 0.3), True),
        ((0.3, 9.0, 0.3, 9.0), True),  # of the last nothing is known
        ((0.3, 9.0, 1.5, 0.3), False),  # the weights went astray and came back
        ((9.0, 0.3, 9.0, 1.5), False),
        ((9.0, 0.3, 9.0, math.nan), False),
        ((0.3, 0.3, 0.3, 9.0), False),  # nobody knows what came then
        ((9.0, 9.0, 9.0, 9.0), False),
    ],
)
def test_an_excursion_that_is_over_with_its_batch_points_to_the_data(batch_losses, is_broken_data):
    excursion = report(375, 0.4, max_batch_loss=9.0, batch_losses=batch_losses)
    [(_, verdict)] = verdicts([*curve(LEARNT), excursion], "R1d")

    assert ("look for broken examples" in verdict.advice) is is_broken_data
    assert "lower the learning rate" in verdict.advice  # with sound data


def test_broken_batches_are_not_taken_for_lost_progress():
    """One batch in four is far off and the rest is as ever: whatever the reports' means say."""
    losses = (0.3, 9.0, 0.3, 0.3)
    broken = [
        report(step, 2.5, max_batch_loss=9.0, batch_losses=losses) for step in range(25, 1001, 25)
    ]
    astray = [dataclasses.replace(r, batch_losses=(0.3, 9.0, 1.5, 0.3)) for r in broken]

    assert [v.rule for _, v in verdicts([*curve(LEARNT), *broken[14:]])] == ["R1d"]
    assert [v.rule for _, v in verdicts(broken)] == ["R1d"]
    assert {v.rule for _, v in verdicts([*curve(LEARNT), *astray[14:]])} >= {"R1b", "R1c", "R1d"}


def test_one_matrix_is_told_in_the_singular():
    one = report(500, 0.25, frozen_parameters=("embed.weight",))
    [(_, verdict)] = verdicts([*curve(LEARNT), one], "R15")

    assert verdict.reason == "1 weight matrix has not changed by step 500: embed.weight"


# --- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clipping", "clip_rate", "expected"),
    [
        ("none", 0.0, Severity.PRUNE),
        ("agc", 0.0, Severity.PRUNE),
        ("agc", 0.1, Severity.PENALISE),
        ("autoclip", 0.9, Severity.PENALISE),
        ("per_parameter_value", 0.1, Severity.PENALISE),
    ],
)
def test_a_clipping_that_follows_the_run_guards_it_if_it_clips(clipping, clip_rate, expected):
    excursion = report(300, 0.4, max_batch_loss=5.0, clip_rate=clip_rate)
    found = verdicts([*curve(FALLING), excursion], "R1d", clipping=clipping, max_grad_norm=None)

    assert [v.severity for _, v in found] == [expected]


@pytest.mark.parametrize(("batch_numbers", "is_found"), [(10**8, True), (4096, True), (4, False)])
def test_a_batch_of_few_numbers_may_be_far_from_its_mean(batch_numbers, is_found):
    excursion = report(300, 0.4, max_batch_loss=3.5)
    found = verdicts([*curve(FALLING), excursion], "R1d", batch_numbers=batch_numbers)

    assert bool(found) is is_found


# --- what a network outputs before it has learned anything ------------------------------------

UNCENTRED = dataclasses.replace(REFERENCE, bin_zero=(2.5,) * 4)
"""A target with a mean: C0 takes it out, a network that outputs 0 does not."""


def test_a_model_that_starts_at_zero_output_has_not_diverged():
    """Above 1.5 C0, and on its way down."""
    losses = [2.5, 2.2, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 0.6, 0.4, 0.3]

    assert verdicts(curve(losses), reference=UNCENTRED) == []


def test_a_model_that_stays_at_zero_output_is_not_learning():
    found = verdicts(curve([2.5] * 12), "R1c", reference=UNCENTRED)

    assert [v.symptom for _, v in found] == [Symptom.NOT_LEARNING]


def test_an_excursion_is_one_above_the_zero_output():
    reports = [*curve(FALLING), report(300, 0.3, max_batch_loss=5.0)]

    assert verdicts(reports, "R1d", reference=UNCENTRED) == []
    assert len(verdicts(reports, "R1d")) == 1


def test_where_there_is_little_to_learn_noise_is_no_loss_of_progress():
    """Training on the noisiest timesteps alone: no denoiser is much better than a constant."""
    near = dataclasses.replace(REFERENCE, bin_isotropic=(0.95,) * 4, bin_linear=(0.94,) * 4)
    losses = [1.0, 0.95, 0.93, 0.96, 0.97, 0.96, 0.97, 0.96, 0.97, 0.96, 0.97, 0.96]

    assert verdicts(curve(losses), reference=near) == []
    assert [v.rule for _, v in verdicts(curve([*losses, 2.0, 2.0, 2.0]), reference=near)] == [
        "R1c"
    ]


TOGETHER = dataclasses.replace(REFERENCE, bin_isotropic=(0.95,) * 4, bin_linear=(0.2,) * 4)
"""One gain for all numbers of an example is hardly better than a constant, and yet there is much
to learn: they go together, as pixels do. The trivial loss is 0.85, the bar of R1c 0.925."""


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 12, [("R1c", Symptom.NOT_LEARNING)]),
        ([1.0, 0.8, 0.6, 0.5, 0.5, 1.0, 1.0, 1.0], [("R1b", Symptom.LOST_PROGRESS)]),
        ([1.0, 0.9, 0.7, 0.5, 0.4, 0.35, 0.3, 0.3, 0.3], []),
        ([0.98, 0.96, 0.95, 0.94, 0.94, 0.94, 0.94, 0.94], [("R1c", Symptom.NOT_LEARNING)]),
        ([0.98, 0.94, 0.92, 0.91, 0.91, 0.91, 0.91, 0.91], []),
    ],
    ids=["dead", "lost", "learns", "above the bar", "below the bar"],
)
def test_where_a_single_gain_hardly_helps_dead_trials_are_called(losses, expected):
    found = verdicts(curve(losses), reference=TOGETHER)

    assert [(v.rule, v.symptom) for _, v in found if v.rule.startswith("R1")][:1] == expected


# --- warm-up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_steps", [1200, 2000])
def test_a_long_warm_up_switches_no_rule_off(warmup_steps):
    dead = curve([1.0] * 80)
    lost = curve([*np.linspace(1, 0.3, 40), *[0.95] * 40])

    assert verdicts(dead, lr_warmup_steps=warmup_steps)[0][1].rule == "R1c"
    assert "R1b" in [v.rule for _, v in verdicts(lost, lr_warmup_steps=warmup_steps)]


# --- bins that are hardly trained, or seldom drawn ----------------------------------------------


def test_a_bin_that_training_hardly_draws_from_is_not_judged():
    share = (0.5, 0.3, 0.19, 0.01)  # a log-normal that leaves out the noisiest timesteps
    losses = [1.0, 0.8, 0.5, 0.2, 0.1, 0.05, 0.05, 0.05]
    reports = [
        report((i + 1) * 25, loss, bin_loss=(loss, loss, loss, 9.0))
        for i, loss in enumerate(losses)
    ]

    assert verdicts(reports, bin_share=share) == []
    assert [v.rule for _, v in verdicts(reports)][-1] == "R1c"


def test_a_window_without_samples_of_a_low_bin_is_no_loss_of_progress():
    low_bins = {"bin_loss": (0.9, 0.1, 0.01, 0.01)}
    without = {"bin_loss": (0.9, *[math.nan] * 3), "bin_count": (1600, 0, 0, 0)}
    window = TrialWindow(facts())
    for step in range(25, 300, 25):
        window.observe(report(step, 0.25, **low_bins))
    seen = window.recent_losses[-1]
    window.observe(report(300, 0.9, **without))

    assert window.recent_losses[-1] == pytest.approx(seen)


@pytest.mark.parametrize("reports_per_window", [8, 20])
def test_reports_with_few_samples_are_judged_together(reports_per_window):
    """Noise that looks like a loss of progress, report by report, averages out."""
    rng = np.random.default_rng(0)
    noise = 0.02 * math.sqrt(reports_per_window) * rng.normal(size=400)
    losses = 0.3 + 0.7 * np.exp(-np.arange(400) / 40) + noise

    def judge(samples_per_bin):
        reports = [
            report((i + 1) * 5, loss, bin_count=(samples_per_bin,) * 4)
            for i, loss in enumerate(losses.tolist())
        ]
        return verdicts(reports, rule="R1b", report_every=5, lr_warmup_steps=0)

    assert judge(64 // reports_per_window) == []
    assert judge(64) != []


def test_few_samples_do_not_hide_a_real_loss_of_progress():
    losses = [1.0] * 20 + [0.3] * 40 + [1.0] * 40
    reports = [report((i + 1) * 5, loss, bin_count=(25,) * 4) for i, loss in enumerate(losses)]

    assert "R1b" in {v.rule for _, v in verdicts(reports, report_every=5)}


# --- the parts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("badness", "expected"),
    [([1.0, 3.0, 2.0], 1), ([1.0, 1.0], 1), ([math.nan, 0.5], 1), ([math.nan, math.inf], None)],
    ids=["largest", "noisiest of equals", "nan is skipped", "nothing finite"],
)
def test_worst_bin(badness, expected):
    edges = tuple(range(len(badness) + 1))
    window = TrialWindow(facts(bin_edges=edges, bin_share=(1 / len(badness),) * len(badness)))

    assert window.worst_judged_bin(np.array(badness)) == expected


def test_the_worst_bin_is_one_that_is_judged():
    window = TrialWindow(facts(bin_share=(0.5, 0.3, 0.19, 0.01)))

    assert window.worst_judged_bin(np.array([1.0, 2.0, 1.5, 9.0])) == 1


def test_slope_t_statistic_agrees_with_least_squares():
    rng = np.random.default_rng(0)
    losses = np.exp(rng.normal(size=20) * 0.1 - 0.02 * np.arange(20)).tolist()
    window = TrialWindow(facts())
    for r in curve(losses):
        window.observe(r)
    y = np.log(losses[-8:])
    design = np.stack([np.ones(8), np.arange(8)], axis=1)
    coefficients, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(residual[0] / 6 * np.linalg.inv(design.T @ design)[1, 1])

    assert window.log_loss_slope_t(0.4, 4) == pytest.approx(coefficients[1] / error)
