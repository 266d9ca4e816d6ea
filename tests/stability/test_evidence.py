"""From when on, and on how much evidence, the rules speak: just enough, and one less."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest

from stabsearch.stability.analyzer import Analyzer
from stabsearch.stability.lr_gauge import lr_gauge_octaves
from tests.stability.reports import NUM_BINS, REFERENCE, curve, evaluation, facts, report

HEALTHY = (0.5, 0.12, 0.05, 0.05)


def spoken(rule, reports, **fact_changes):
    """(step, value) of what one rule says."""
    analyzer = Analyzer(facts(**fact_changes))
    found = [v for r in reports for v in analyzer.judge(r).verdicts]
    return [(v.step, v.value) for v in found if v.rule == rule]


def steps(rule, reports, **fact_changes):
    return [step for step, _ in spoken(rule, reports, **fact_changes)]


def learned(*, held_out=HEALTHY, until=2000, every=25, each=None, **probe):
    """A trial that stays at 0.18 from its first report on, evaluated every 100 steps."""
    reports = []
    for step in range(every, until + 1, every):
        held = evaluation(held_out, **{"kappa": 0.95} | probe) if step % 100 == 0 else None
        changes = {"bin_loss": HEALTHY, "evaluation": held} | (each(step) if each else {})
        reports.append(report(step, 0.18, **changes))
    return reports


def polyfit(x, y):
    """Slope, and t statistic of it."""
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    return slope, slope / math.sqrt(covariance[0, 0])


# --- R1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_r1c_speaks_as_soon_as_polyfit_no_longer_sees_the_loss_fall(seed):
    """Over the last 40% of the windows, four at least; from 10% of the budget, 200 steps, on."""
    rng = np.random.default_rng(seed)
    fall = rng.uniform(0.0, 0.03)
    losses = 0.99 * np.exp(-fall * np.arange(40)) * rng.lognormal(0, 0.02, 40)
    losses = np.maximum(losses, rng.uniform(0.82, 0.95))
    expected = []
    for n in range(4, 41):
        count = max(4, math.ceil(0.4 * n))
        _, t = polyfit(np.arange(count), np.log(losses[n - count : n]))
        if t > -2 and losses[n - 2 : n].mean() > 0.6 and 50 * n >= 200:
            expected.append(50 * n)

    assert steps("R1c", curve(losses.tolist(), 50))[:1] == expected[:1]


@pytest.mark.parametrize(("step", "is_found"), [(25, False), (26, True)])
def test_a_loss_scaler_has_25_steps_to_find_its_scale(step, is_found):
    assert steps("R1a", [report(step, 0.5, scaler_skips=step)]) == [step] * is_found


@pytest.mark.parametrize(("loss", "is_found"), [(4.7, False), (4.9, True)])
def test_an_excursion_is_beyond_three_sigmas_of_a_batch(loss, is_found):
    """Of 50 numbers: 3 (1 + 3 sqrt(2 / 50)) = 4.8."""
    reports = [*learned(until=500), report(525, 0.18, max_batch_loss=loss)]

    assert steps("R1d", reports, batch_numbers=50) == [525] * is_found


@pytest.mark.parametrize(("linear", "rules"), [(0.849, {"R1b", "R1c"}), (0.851, set())])
def test_shares_of_little_progress_are_not_judged(linear, rules):
    """C0 is 1: below 15% of it to gain, a loss of progress and a standstill say nothing."""
    near = dataclasses.replace(
        REFERENCE, bin_isotropic=(0.9,) * NUM_BINS, bin_linear=(linear,) * NUM_BINS
    )
    reports = curve([0.9, 0.8, 0.8, *[0.99] * 20])
    analyzer = Analyzer(facts(reference=near))
    found = {v.rule for r in reports for v in analyzer.judge(r).verdicts}

    assert found & {"R1b", "R1c"} == rules


# --- R2, R3, R12 ------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "first"), [(25, 325), (50, 450)])
def test_r2_speaks_from_15_percent_on_over_six_windows_after_warm_up(every, first):
    """The second look decides. Every 50 steps the six windows end at 150 to 400."""
    losses = [0.5] * (2000 // every)

    assert steps("R2", curve(losses, every)) == [first]


@pytest.mark.parametrize("seed", range(6))
def test_r2_draws_the_line_as_polyfit_does(seed):
    """Over the last 60% of the windows after warm-up, less two standard errors at the end."""
    rng = np.random.default_rng(seed)
    losses = (0.5 + 0.5 * 2 ** (-np.arange(80) / 4)) * rng.lognormal(0, 0.02, 80)
    reports = curve(losses.tolist())
    [(step, value)] = spoken("R2", reports)
    last = step // 25
    x = np.log2(25 * np.arange(last) + 12.5)[4:]  # warm-up: four windows
    count = max(6, math.ceil(0.6 * len(x)))
    x, y = x[-count:], losses[4:last][-count:]
    (slope, offset), covariance = np.polyfit(x, y, 1, cov=True)
    end = np.array([math.log2(2000), 1.0])

    assert value == pytest.approx(end @ (slope, offset) - 2 * math.sqrt(end @ covariance @ end))


def test_r12_asks_for_a_slope_beyond_two_standard_errors():
    """Over the last 40% of the windows, four at least; half of u, 0.0325, per doubling."""
    seen = []
    x = np.log2(25 * np.arange(80) + 12.5)
    for noise in (0.01, 0.02, 0.025, 0.03, 0.05):
        losses = 0.3 - 0.05 * (x - x[-1]) - 0.1 + noise * (-1.0) ** np.arange(80)
        slope, t = polyfit(x[-31:], losses[-31:])  # of 76 after warm-up
        is_found = bool(t < -2)
        reports = [
            report(25 * (i + 1), loss, bin_loss=(loss,) * NUM_BINS)
            for i, loss in enumerate(losses.tolist())
        ]
        found = spoken("R12", reports)
        seen.append(t)

        assert slope < -0.5 * 0.065
        assert [step for step, _ in found] == [2000] * is_found
        assert [value for _, value in found] == pytest.approx([-slope / 0.065] * is_found)
    assert any(-3 < t < -2 for t in seen)
    assert any(-2 < t < -1 for t in seen)


@pytest.mark.parametrize(("fall", "is_found"), [(0.0039, False), (0.0042, True)])
def test_r12_of_data_without_a_unit(fall, is_found):
    """L_lin = L_iso: a hundredth of C0 - L_iso = 0.8 counts as u, and half of it is the bar."""
    same = dataclasses.replace(REFERENCE, bin_linear=REFERENCE.bin_isotropic)

    def each(step):
        loss = 0.15 + fall * math.log2(2000 / (step - 12.5)) + 1e-6 * (step % 2)
        return {"bin_loss": (loss,) * NUM_BINS}

    assert steps("R12", learned(each=each), reference=same) == [2000] * is_found


@pytest.mark.parametrize(("end", "is_found"), [(0.79, True), (0.81, False)])
def test_r12_is_about_a_trial_that_learns(end, is_found):
    """It came down by a quarter of C0 - L_iso = 0.8, and still falls by 0.8 u per doubling."""

    def each(step):
        return {"bin_loss": (end + 0.05 * math.log2(2000 / (step - 12.5)),) * NUM_BINS}

    assert steps("R12", learned(each=each)) == [2000] * is_found


@pytest.mark.parametrize(("lost", "is_found"), [(0.19, True), (0.21, False)])
def test_r12_is_about_a_trial_that_kept_its_progress(lost, is_found):
    """All but a fifth of what it came down from C0 to its lowest window, 0.2."""

    def each(step):
        return {"bin_loss": (0.2 if step < 1000 else 0.2 + 0.8 * lost,) * NUM_BINS}

    assert steps("R12", learned(each=each, kappa=1.1)) == [2000] * is_found


@pytest.mark.parametrize(("eval_rows", "is_read"), [(64, True), (63, False)])
def test_kappa_is_read_from_256_rows_on(eval_rows, is_read):
    gauge = lr_gauge_octaves(facts(eval_rows=eval_rows), 200, 0.9)

    assert (gauge is not None) is is_read


def test_the_gauge_ends_at_six_octaves():
    assert lr_gauge_octaves(facts(), 200, 0.99 - 5.9 * 0.065) == pytest.approx(5.9)
    assert lr_gauge_octaves(facts(), 200, 0.99 - 6.1 * 0.065) == 6.0
    assert lr_gauge_octaves(facts(), 200, 0.99 + 6.1 * 0.04) == -6.0


# --- single timesteps ---------------------------------------------------------------------------

BUMP = (0.5, 0.12, 0.3, 0.05)
"""R8: 3.9 times the geometric mean of the neighbours."""


@pytest.mark.parametrize(("eval_rows", "is_found"), [(64, True), (63, False)])
def test_a_bin_takes_64_rows(eval_rows, is_found):
    assert steps("R8", learned(held_out=BUMP), eval_rows=eval_rows) == [600] * is_found


@pytest.mark.parametrize(("loss", "is_found"), [(0.79, True), (0.81, False)])
def test_timesteps_are_judged_of_a_trial_that_learns(loss, is_found):
    reports = learned(held_out=BUMP, each=lambda _step: {"bin_loss": (loss,) * NUM_BINS})

    assert bool(steps("R8", reports)) is is_found


@pytest.mark.parametrize("unjudged", [1, 2, 3])
def test_a_bump_is_one_among_judged_bins(unjudged):
    share = tuple(0.01 if i == unjudged else 0.33 for i in range(NUM_BINS))

    assert steps("R8", learned(held_out=BUMP), bin_share=share) == []


def test_a_dead_bin_is_a_judged_one():
    dead = {"bin_grad_norm": (1.0, 1.0, 1.0, 0.0)}
    reports = learned(held_out=(0.5, 0.12, 0.05, 1.0), each=lambda _step: dead)

    assert steps("R8", reports) == [600]
    assert steps("R8", reports, bin_share=(0.33, 0.33, 0.33, 0.01)) == []


@pytest.mark.parametrize(("improvement", "is_found"), [(0.49, False), (0.51, True)])
def test_a_bin_is_dead_where_most_have_come_half_way(improvement, is_found):
    held_out = [1 - improvement * (1 - linear) for linear in REFERENCE.bin_linear[:3]]
    dead = {"bin_grad_norm": (1.0, 1.0, 1.0, 0.0)}
    reports = learned(held_out=(*held_out, 1.0), each=lambda _step: dead)

    assert steps("R8", reports) == [600] * is_found


@pytest.mark.parametrize(("norm", "is_found"), [(0.0099, True), (0.0101, False)])
def test_a_dead_bin_s_norm_is_below_a_hundredth_of_the_median(norm, is_found):
    norms = {"bin_grad_norm": (1.0, 1.0, 1.0, norm)}
    reports = learned(held_out=(0.5, 0.12, 0.05, 1.0), each=lambda _step: norms)

    assert steps("R8", reports) == [600] * is_found


def test_a_dead_bin_is_one_without_gradient_where_gradients_are_measured():
    """The norms of a loop of one's own may be unknown."""
    unknown = {"bin_grad_norm": (math.nan,) * 4, "bin_grad_count": (0,) * 4}
    reports = learned(held_out=(0.5, 0.12, 0.05, 1.0), each=lambda _step: unknown)

    assert steps("R8", reports) == [600]


def test_a_bin_with_nothing_to_gain_is_not_dead():
    """At the cleanest timesteps of epsilon the best linear denoiser gains 4% only."""
    flat = dataclasses.replace(
        REFERENCE, bin_isotropic=(0.99, 0.15, 0.04, 0.01), bin_linear=(0.96, 0.1, 0.03, 0.01)
    )
    norms = {"bin_grad_norm": (0.0, 1.0, 1.0, 1.0)}
    reports = learned(held_out=(1.0, 0.12, 0.05, 0.05), each=lambda _step: norms)

    assert steps("R8", reports, reference=flat) == []
    assert steps("R8", reports) == [600]


@pytest.mark.parametrize(("prediction_type", "slack"), [("v_prediction", 1.25), ("flow", 2.5)])
@pytest.mark.parametrize("excess", [0.99, 1.01])
@pytest.mark.parametrize(("peer", "rise"), [(0.1, 1.0), (0.16, 1.0), (0.4, 2.5)])
def test_the_last_bin_s_bar_rises_with_what_peers_reach(
    prediction_type, slack, excess, peer, rise
):
    """L_iso is 0.2; a peer with 0.4, and a slack of 1.25, makes the bar 2.5 times as high."""
    held_out = (0.5, 0.12, 0.05, excess * slack * rise * 0.01)
    changes = {"prediction_type": prediction_type, "reached": ((25, peer),)}

    assert steps("R5", learned(held_out=held_out), **changes) == [600] * (excess > 1)


@pytest.mark.parametrize(("loss", "is_found"), [(0.59, True), (0.61, False)])
def test_timesteps_should_matter_from_half_way_on(loss, is_found):
    """Half-way from C0 = 1 to L_iso = 0.2."""
    reports = learned(held_out=(loss,) * NUM_BINS, shuffled_loss=loss)

    assert bool(steps("R6", reports)) is is_found


def test_timesteps_should_matter_where_peers_have_come_no_farther():
    reports = learned(held_out=(0.61,) * NUM_BINS, shuffled_loss=0.61)

    assert steps("R6", reports, reached=((25, 0.55),))


def test_gradients_are_looked_at_from_5_percent_on():
    loud = {"bin_grad_norm": (9.0, 1.0, 1.0, 1.0), "bin_grad_count": (200,) * NUM_BINS}

    assert steps("R7", learned(each=lambda _step: loud)) == [125]


@pytest.mark.parametrize(
    ("share", "is_found"),
    [((0.25,) * 4, True), ((0.01, 0.33, 0.33, 0.33), False), ((0.01, 0.01, 0.49, 0.49), False)],
    ids=["both judged", "the cleanest is not", "neither is"],
)
def test_memorising_shows_in_judged_bins(share, is_found):
    """In the cleanest one only."""
    reports = learned(each=lambda _step: {"bin_loss": (0.3, 0.12, 0.05, 0.05)})

    assert steps("R13", reports, bin_share=share) == [1100] * is_found


# --- cost -------------------------------------------------------------------------------------


def test_a_report_costs_as_many_calls_after_5000_as_after_300():
    """Counted, for a clock tells more about the machine."""

    def calls_of(analyzer, r):
        calls = [0]
        sys.setprofile(lambda _frame, event, _argument: calls.__setitem__(0, calls[0] + 1))
        try:
            analyzer.judge(r)
        finally:
            sys.setprofile(None)
        return calls[0]

    analyzer = Analyzer(facts(max_train_steps=1_000_000, lr_warmup_steps=0))
    counts = {}
    for i in range(1, 5001):
        r = report(25 * i, 0.18, bin_loss=HEALTHY, evaluation=evaluation(HEALTHY))
        if i in (300, 5000):
            counts[i] = calls_of(analyzer, r)
        else:
            analyzer.judge(r)

    assert counts[5000] <= 1.2 * counts[300]
