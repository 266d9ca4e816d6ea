"""Trials at the border of what can be judged: nothing is divided by, nothing speaks of noise."""

from __future__ import annotations

import dataclasses
import math

import pytest

from stabsearch.records import ReferenceLoss, SamplerCheck, Severity
from stabsearch.stability.analyzer import Analyzer
from stabsearch.thresholds import resolve
from tests.stability.reports import NUM_BINS, REFERENCE, evaluation, facts, report
from tests.stability.streams import random_facts, random_reports

HEALTHY = (0.5, 0.12, 0.05, 0.05)


def said(reports, **fact_changes):
    analyzer = Analyzer(facts(**fact_changes))
    return [v for r in reports for v in analyzer.judge(r).verdicts]


def learned(until=2000, held_out=HEALTHY, each=None, kappa=0.95):
    """A trial that learned quickly and stays at 0.18."""
    reports = []
    for step in range(25, until + 1, 25):
        probe = evaluation(held_out, kappa=kappa, shuffled_loss=0.3) if step % 100 == 0 else None
        losses = tuple(loss * (1 + 4 * math.exp(-step / 60)) for loss in HEALTHY)
        changes = {"bin_loss": losses, "evaluation": probe} | (each(step) if each else {})
        reports.append(report(step, sum(losses) / 4, **changes))
    return reports


# --- few bins ---------------------------------------------------------------------------------


def narrowed(reports, bins):
    """The same reports with the first ``bins`` bins alone."""
    for r in reports:
        probe = r.evaluation and dataclasses.replace(
            r.evaluation,
            **{
                name: getattr(r.evaluation, name)[:bins]
                for name in ("bin_loss_raw", "bin_loss_ema", "bin_x0_error")
            },
        )
        names = ("bin_loss", "bin_count", "bin_nonfinite", "bin_grad_norm", "bin_grad_count")
        cut = {name: getattr(r, name)[:bins] for name in names}
        yield dataclasses.replace(r, **cut, evaluation=probe)


def facts_of(bins, **changes):
    curves = {
        name: getattr(REFERENCE, name)[:bins]
        for name in ("bin_constant", "bin_zero", "bin_isotropic", "bin_linear")
    }
    return facts(
        bin_edges=tuple(250 * i for i in range(bins + 1)),
        bin_share=(1 / bins,) * bins,
        reference=ReferenceLoss(**curves, bin_posterior=None, constant_score=20.0),
        eval_rows=400,
        **changes,
    )


@pytest.mark.parametrize("bins", [1, 2, 3])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_no_bin_of_so_few_dominates_or_is_the_cleanest(bins, prediction_type):
    """One bin holds all of the gradient, two are two at most; a single one is no end of two."""
    many = {"bin_grad_count": (400,) * NUM_BINS, "bin_grad_norm": (3.0, 1.0, 1.0, 1.0)}
    reports = learned(held_out=(0.8, 0.2, 0.05, 0.05), each=lambda _step: many)
    analyzer = Analyzer(facts_of(bins, prediction_type=prediction_type))
    rules = {v.rule for r in narrowed(reports, bins) for v in analyzer.judge(r).verdicts}

    assert "R7" not in rules
    assert ("R4" in rules) is (bins > 1)
    assert ("R5" in rules) is (bins == 2 and prediction_type != "epsilon")


@pytest.mark.parametrize("bins", [1, 2])
def test_random_trials_of_few_bins_are_judged(bins):
    spoke = set()
    for seed in range(8):
        trial = dataclasses.replace(
            random_facts(seed),
            **{
                name: getattr(facts_of(bins), name)
                for name in ("bin_edges", "bin_share", "reference", "eval_rows")
            },
        )
        analyzer = Analyzer(trial)
        for r in narrowed(random_reports(random_facts(seed), seed), bins):
            spoke |= {v.rule for v in analyzer.judge(r).verdicts}

    assert {"R1a", "R1b", "R1c"} <= spoke


# --- nothing to divide by ---------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_loss_of_nothing_is_no_symptom_of_a_bin(prediction_type):
    zero = (0.0,) * NUM_BINS
    reports = learned(held_out=zero, each=lambda _step: {"bin_loss": zero, "max_batch_loss": 0.0})
    rules = {v.rule for v in said(reports, prediction_type=prediction_type)}

    assert rules <= {"R12"}


def test_a_reference_of_nothing_is_no_bar_of_a_bin():
    """At a timestep without any signal left the best single gain leaves no epsilon."""
    none = dataclasses.replace(
        REFERENCE, bin_isotropic=(0.0, 0.8, 0.04, 0.0), bin_linear=(0.0, 0.5, 0.03, 0.0)
    )
    rules = {v.rule for v in said(learned(), reference=none, prediction_type="v_prediction")}

    assert not {"R4", "R5"} & rules


@pytest.mark.parametrize(("fall", "expected"), [(0.003, False), (0.02, True)])
def test_data_of_equal_variance_have_no_unit(fall, expected):
    """L_lin = L_iso: u is 0, and a hundredth of C0 - L_iso, 0.008, counts in its place."""
    same = dataclasses.replace(REFERENCE, bin_linear=REFERENCE.bin_isotropic)

    def each(step):
        loss = 0.15 + fall * math.log2(2000 / max(step - 12.5, 12.5)) + 1e-6 * (step % 2)
        return {"bin_loss": (loss,) * NUM_BINS}

    rules = {v.rule for v in said(learned(each=each), reference=same)}

    assert ("R12" in rules) is expected


@pytest.mark.parametrize("losses", [(1.01,), (1.0,), (1.0, 1.01, 1.0)])
def test_white_data_have_no_progress_to_lose(losses):
    """Under v_prediction C0 = L_iso = L_lin: a network that outputs 0 is as good as any."""
    one = (1.0,) * NUM_BINS
    white = dataclasses.replace(REFERENCE, bin_isotropic=one, bin_linear=one)
    reports = [report(25 * i, loss) for i, loss in enumerate(losses * 20, 1)]

    assert said(reports, reference=white, prediction_type="v_prediction") == []


@pytest.mark.parametrize("log_variance", [1e4, math.inf])
def test_a_sampler_whose_variance_explodes_is_told(log_variance):
    check = SamplerCheck(name="mine", mean_z2=1.0, log_variance=log_variance)
    [verdict] = said([report(25, 0.9)], sampler_check=check)

    assert verdict.rule == "R11"
    assert "e+304 times the data's" in verdict.reason


# --- what is not finite -----------------------------------------------------------------------


def test_of_an_evaluation_that_is_not_finite_only_that_is_said():
    broken = (math.inf, 0.1, math.nan, 0.05)
    found = said(learned(held_out=broken, until=1000), skips_nonfinite=True)

    assert [(v.rule, v.severity) for v in found] == [("R1a", Severity.PRUNE)]


def test_a_batch_that_overflows_is_an_excursion_and_no_crash():
    reports = learned(until=1000)
    reports.append(report(1025, 1e308, bin_loss=(1e308,) * NUM_BINS, max_batch_loss=math.inf))
    rules = [v.rule for v in said([*reports, report(1050, 0.2)])]

    assert "R1d" in rules


@pytest.mark.parametrize(
    ("skips_nonfinite", "nonfinite_steps", "scaler_skips", "limit", "value"),
    [
        (True, 14, 0, "R1a.standing_share", 0.56),
        (True, 0, 25, "R1a.standing_share", 1.0),
        (True, 7, 8, "R1a.standing_share", 0.6),
        (False, 14, 0, "", 14),
        (True, 2, 0, "", 2),
    ],
)
def test_the_share_of_skipped_steps_is_what_was_judged_where_it_decided(
    skips_nonfinite, nonfinite_steps, scaler_skips, limit, value
):
    bad = report(50, 0.5, nonfinite_steps=nonfinite_steps, scaler_skips=scaler_skips)
    [verdict] = said([report(25, 0.5), bad], skips_nonfinite=skips_nonfinite)

    assert (verdict.limit, verdict.value) == (limit, pytest.approx(value))
    assert verdict.threshold == (0.5 if limit else 0)


# --- twice in a row ---------------------------------------------------------------------------


def test_two_symptoms_in_turn_are_not_one_twice():
    """The first bin holds most of the gradient, then the last, then the first."""

    def each(step):
        loud = 0 if step % 50 else 3
        norms = tuple(9.0 if i == loud else 1.0 for i in range(NUM_BINS))
        return {"bin_grad_norm": norms, "bin_grad_count": (200,) * NUM_BINS}

    assert "R7" not in {v.rule for v in said(learned(each=each))}


def test_a_look_that_finds_nothing_begins_anew():
    """Of four looks every second one, then two in a row."""

    def each(step):
        is_loud = step in (200, 250, 300, 325)
        norms = (9.0 if is_loud else 1.0, 1.0, 1.0, 1.0)
        return {"bin_grad_norm": norms, "bin_grad_count": (200,) * NUM_BINS}

    [verdict] = [v for v in said(learned(each=each)) if v.rule == "R7"]

    assert verdict.step == 325


# --- the rest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_steps", [600, 1200, 2000])
def test_a_long_warm_up_leaves_the_timesteps_judged(warmup_steps):
    """From half of the budget on at the latest; R8 takes two evaluations."""
    bump = (0.5, 0.12, 0.3, 0.05)
    found = said(learned(held_out=bump), lr_warmup_steps=warmup_steps)

    assert [v.step for v in found if v.rule == "R8"] == [1100]


def test_kappa_in_warm_up_says_nothing_of_the_rate():
    analyzer = Analyzer(facts(lr_warmup_steps=600))
    gauges = {r.step: analyzer.judge(r).report.lr_gauge_octaves for r in learned() if r.evaluation}

    assert [step for step, gauge in gauges.items() if gauge is None] == [100, 200, 300, 400, 500]


@pytest.mark.parametrize(
    ("kappa", "factor"), [(0.95, "1.5"), (0.84, "5"), (0.5, "8"), (1.03, "2.8"), (1.3, "8")]
)
def test_the_rate_is_changed_by_a_factor_that_is_a_number(kappa, factor):
    analyzer = Analyzer(facts(), resolve(changes={"R3.octaves": 0.5}))
    found = [v for r in learned(kappa=kappa, until=300) for v in analyzer.judge(r).verdicts]
    [advice] = [v.advice for v in found if v.rule == "R3"] or ["none"]

    assert f"the learning rate about {factor} times" in advice
