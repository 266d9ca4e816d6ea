"""Every number of the window against numpy, which looks at all reports again each time.

The lengths stand here as numbers, as they do in docs/rules.md.
"""

from __future__ import annotations

import copy
import json
import math
import statistics

import numpy as np
import pytest

from stabsearch.stability.window import News, TrialWindow, judged_bins
from tests.stability.reports import NUM_BINS, REFERENCE, curve, evaluation, facts, report
from tests.stability.streams import inside, random_facts, random_reports

SEEDS = range(6)
BEGAN = [1.0, 30.0]
"""The loss of the untrained model, in that of the output 0."""


class SlowWindow:
    """The same answers from the whole list of reports."""

    def __init__(self, trial, reports):
        self.facts, self.reports = trial, reports
        self.judged = judged_bins(trial)
        self.bin_loss, self.ends = self._windows()
        latest, rows = np.full(NUM_BINS, math.nan), []
        for row in self.bin_loss:
            latest = np.where(np.isnan(row), latest, row)
            rows.append(np.nanmean(latest[self.judged]))
        self.losses = np.array(rows)
        self.zero = self.mean_of(REFERENCE.bin_zero)
        first = reports[0].batch_losses[0]
        self.start = first if first > 1.5 * self.zero else None

    def _windows(self):
        """Bin losses ``[W, K]`` of the windows, and the step at which each ended."""
        rows, ends, group = [], [], []
        for r in self.reports:
            group.append(r)
            counts = np.array([np.subtract(g.bin_count, g.bin_nonfinite) for g in group])
            if counts.sum() >= 64 * NUM_BINS:
                sums = np.where(counts > 0, np.array([g.bin_loss for g in group]) * counts, 0.0)
                with np.errstate(invalid="ignore"):
                    rows.append(sums.sum(0) / counts.sum(0))
                ends.append(r.step)
                group = []
        return np.array(rows).reshape(-1, NUM_BINS), ends

    def mean_of(self, values):
        return float(np.mean(np.array(values)[self.judged]))

    def lost_progress(self, loss, low):
        constant = self.mean_of(REFERENCE.bin_constant)
        top = self.start if self.start and low > constant else constant
        possible = top - self.mean_of(REFERENCE.bin_isotropic)
        return (loss - low) / max(top - low, possible / 2)

    def expected(self):
        current = np.mean(self.losses[-2:])
        lows = np.minimum.accumulate(self.losses)
        return {
            "num_windows": len(self.losses),
            "window_end": self.ends[-1],
            "window_steps": np.diff([0, *self.ends])[-1],
            "current_loss": current,
            "min_loss": lows[-1],
            "lost_progress": self.lost_progress(min(current, self.losses[-1]), lows[-1]),
            "max_lost_progress": max(map(self.lost_progress, self.losses, lows)),
            "min_bin_loss": np.fmin.reduce(self.bin_loss, initial=math.inf),
            "current_bin_loss": _columns(self.bin_loss[-2:]),
            "long_bin_loss": _columns(self.bin_loss[-10:]),
            "typical_grad_norm": np.median([r.grad_norm_median for r in self.reports][-200:]),
            "outlier_rate": self.outlier_rate(),
            "skipped_share": self.skipped_share(),
            "grad_share": self.grad_share(),
        }

    def outlier_rate(self):
        start = max(self.facts.lr_warmup_steps, 0.25 * self.facts.max_train_steps)
        stretches, steps, outliers = [math.nan], 0, 0.0
        before = 0
        for r in self.reports:
            length, before = r.step - before, r.step
            if r.step - length >= start:
                steps, outliers = steps + length, outliers + length * r.outlier_norm_rate
            if steps >= 200:
                stretches.append(outliers / steps)
                steps, outliers = 0, 0.0
        return stretches[-1]

    def skipped_share(self):
        shares, steps, skips, before = [0.0], 0, 0, 0
        for r in self.reports:
            steps, before = steps + r.step - before, r.step
            skips += r.nonfinite_steps + r.scaler_skips
            if steps >= 10:
                shares.append(skips / steps)
                steps = skips = 0
        return shares[-1]

    def grad_share(self):
        shares, group = [], []
        for r in self.reports:
            group.append(r)
            counts = np.array([g.bin_grad_count for g in group])
            if counts.sum() >= 512:
                squares = (counts * np.square([g.bin_grad_norm for g in group])).sum(0)
                squares = squares / np.where(counts.sum(0), counts.sum(0), math.nan)
                shares.append(squares / np.nansum(squares))
                group = []
        return shares[-1] if shares else []


def _columns(rows):
    counts = (~np.isnan(rows)).sum(0)
    return np.where(counts, np.nansum(rows, 0) / np.maximum(counts, 1), math.nan)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("began", BEGAN)
def test_agrees_with_numpy_over_all_reports(seed, began):
    trial = random_facts(seed)
    reports = random_reports(trial, seed, began)
    window, compared = TrialWindow(trial), 0
    for i, r in enumerate(reports, 1):
        news = window.observe(r)
        if News.WINDOW not in news or i % 3:
            continue
        compared += 1
        for name, value in SlowWindow(trial, reports[:i]).expected().items():
            seen = getattr(window, name)
            assert np.allclose(seen, value, rtol=1e-9, equal_nan=True), (i, name, seen, value)

    assert compared > 5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.4, 0.6, 1.0])
@pytest.mark.parametrize("began", BEGAN)
def test_trends_agree_with_polyfit(seed, share, began):
    trial = random_facts(seed)
    reports = random_reports(trial, seed, began)
    window = TrialWindow(trial)
    for r in reports:
        window.observe(r)
    slow = SlowWindow(trial, reports)
    capped = np.minimum(slow.losses, slow.start or slow.zero)
    count = max(4, math.ceil(share * len(capped)))
    slope, error = _slope(np.arange(count), np.log(capped[-count:]))

    assert window.log_loss_slope_t(share, 4) == pytest.approx(slope / error, rel=1e-5)

    starts = np.array([0, *slow.ends[:-1]])
    ends = np.array(slow.ends)
    after = starts >= min(trial.lr_warmup_steps, trial.max_train_steps / 2)
    x = np.log2((starts + ends) / 2)[after]
    y = capped[after]
    count = max(6, math.ceil(share * len(x)))
    slope, error = _slope(x[-count:], y[-count:])
    line = window.loss_line(share, 6)

    assert line.slope == pytest.approx(slope, rel=1e-5)
    assert line.slope_error == pytest.approx(error, rel=1e-4)


def _slope(x, y):
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    return slope, math.sqrt(covariance[0, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_restored_through_json_at_any_report(seed):
    trial = random_facts(seed)
    reports = random_reports(trial, seed)
    whole = TrialWindow(trial)
    half = TrialWindow(trial)
    for r in reports:
        news = whole.observe(r)
        restored = TrialWindow(trial)
        restored.load_state_dict(json.loads(json.dumps(half.state_dict())))
        half = restored

        assert half.observe(r) == news
    assert inside(half) == inside(whole)


def test_a_state_that_was_taken_stays_as_it_was():
    """Sums are added to in place; a checkpoint that is held in memory must not follow."""
    few = {"bin_count": (3,) * NUM_BINS, "bin_grad_count": (3,) * NUM_BINS}
    window, other = TrialWindow(facts()), TrialWindow(facts())
    window.observe(report(25, 0.5, **few))
    state = window.state_dict()
    before = copy.deepcopy(state)
    other.load_state_dict(state)
    other.observe(report(50, 0.5, **few))
    window.observe(report(50, 0.5, **few))

    assert str(state) == str(before)


@pytest.mark.parametrize(
    ("share", "judged"),
    [((0.5, 0.3, 0.15, 0.05), [0, 1, 2, 3]), ((0.5, 0.3, 0.151, 0.049), [0, 1, 2])],
)
def test_a_bin_is_judged_from_a_fifth_of_an_equal_share_on(share, judged):
    assert judged_bins(facts(bin_share=share)) == judged


@pytest.mark.parametrize(("samples", "news"), [(63, News(0)), (64, News.WINDOW)])
def test_a_window_takes_64_finite_samples_per_bin(samples, news):
    window = TrialWindow(facts())
    counts = {"bin_count": (samples + 5,) * NUM_BINS, "bin_nonfinite": (5,) * NUM_BINS}

    assert window.observe(report(25, 0.5, **counts)) & News.WINDOW == news


@pytest.mark.parametrize(("steps", "share"), [((9, 9), 2 / 18), ((10, 5), 1 / 10), ((5, 4), 0.0)])
def test_skipped_steps_are_a_share_of_ten_steps_at_least(steps, share):
    window, step = TrialWindow(facts()), 0
    for length in steps:
        step += length
        window.observe(report(step, 0.5, scaler_skips=1))

    assert window.skipped_share == pytest.approx(share)


def test_a_report_brings_news():
    window = TrialWindow(facts(max_train_steps=1000))
    few = {"bin_count": (10,) * NUM_BINS, "bin_grad_count": (0,) * NUM_BINS}
    many = {"bin_count": (64,) * NUM_BINS, "bin_grad_count": (128,) * NUM_BINS}
    held_out = evaluation((0.5,) * NUM_BINS)
    probe = evaluation((0.5,) * NUM_BINS, shuffled_loss=0.6)

    assert window.observe(report(200, 0.9, **few)) == News.REPORT | News.START
    assert window.observe(report(400, 0.9, **many)) == News.REPORT | News.WINDOW | News.GRADIENTS
    assert window.observe(report(599, 0.9, **few, evaluation=held_out)) == (
        News.REPORT | News.EVALUATION
    )
    assert window.observe(report(600, 0.9, **few)) == News.REPORT | News.NORMS
    assert window.observe(report(1000, 0.9, **few, evaluation=probe)) == (
        News.REPORT | News.NORMS | News.EVALUATION | News.PROBE | News.END
    )


def test_norms_that_nobody_measured_are_left_out_of_the_outliers():
    window = TrialWindow(facts(max_train_steps=1000))
    for step, rate in [(300, 0.0), (400, 0.1), (500, math.nan), (600, 0.3)]:
        window.observe(report(step, 0.5, outlier_norm_rate=rate))

    assert window.outlier_rate == pytest.approx(0.2)


def test_the_typical_norm_forgets_the_beginning():
    window = TrialWindow(facts())
    norms = [100.0] * 50 + [math.nan] * 50 + list(range(200))
    for i, norm in enumerate(norms, 1):
        window.observe(report(i, 0.5, grad_norm_median=norm))

    assert window.typical_grad_norm == statistics.median(range(200))


def test_a_huge_loss_leaves_digits_for_what_follows():
    """After warm-up once at 1e12, the line through the last windows is as without it."""
    losses = [0.4 + 0.001 * (i % 7) for i in range(40)]
    plain, shaken = TrialWindow(facts(lr_warmup_steps=0)), TrialWindow(facts(lr_warmup_steps=0))
    for window, first in ((plain, 0.5), (shaken, 1e12)):
        for r in curve([first, *losses]):
            window.observe(r)

    assert shaken.loss_line(0.6, 6).deviation == pytest.approx(
        plain.loss_line(0.6, 6).deviation, rel=1e-9
    )
