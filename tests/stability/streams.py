"""Random trials: noise, gaps and trouble of every kind; the same seed gives the same reports."""

from __future__ import annotations

import math

import numpy as np

from stabsearch.records import SamplerCheck
from tests.stability.reports import NUM_BINS, evaluation, facts, report

NAN = math.nan
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")
EMA_SCHEDULES = ("ramped", "fixed", "power", None)


def random_facts(seed):
    """A trial of 2,000 steps whose every condition is drawn."""
    rng = np.random.default_rng([seed, 1])
    share = rng.dirichlet((3.0,) * NUM_BINS)
    return facts(
        report_every=int(rng.choice([5, 25, 40])),
        lr_warmup_steps=int(rng.choice([0, 100, 400])),
        lr_schedule=str(rng.choice(["constant", "constant", "cosine"])),
        prediction_type=str(rng.choice(PREDICTION_TYPES)),
        ema_schedule=EMA_SCHEDULES[rng.integers(len(EMA_SCHEDULES))],
        max_grad_norm=(None, 1.0, 10.0)[rng.integers(3)],
        skips_nonfinite=bool(rng.integers(2)),
        bin_share=tuple((share / share.sum()).tolist()),
        reached=((), ((500, 0.5), (1000, 0.2)))[rng.integers(2)],
        terminal_kl=float(10 ** rng.uniform(-4, -1)),
        schedule_error=float(10 ** rng.uniform(-7, -2)),
        sampler_check=SamplerCheck(
            name="ddim",
            mean_z2=float(rng.uniform(0, 6)),
            log_variance=float(rng.normal(0, 0.3)),
        ),
    )


def random_reports(trial, seed, began=1.0):
    """Its reports: bins without samples, uneven counts, a loss that falls from ``began``, stays or
    comes back."""
    rng = np.random.default_rng([seed, 2])
    every = trial.report_every
    final = rng.uniform(0.05, 1.1) * np.array([0.6, 0.3, 0.1, 0.06]) * rng.lognormal(0, 0.5, 4)
    half_life = rng.choice([30.0, 100.0, 1000.0])
    relapse = rng.choice([math.inf, 800.0, 1500.0])
    noise = rng.choice([0.005, 0.05])
    samples = 16 * every
    norms = rng.lognormal(0, rng.choice([0.2, 1.0]), NUM_BINS)
    dead = rng.integers(3 * NUM_BINS)  # a bin that nothing moves, or none
    if dead < NUM_BINS:
        final[dead], norms[dead] = 0.97, 1e-4
    memory = rng.choice([1.0, 1.0, 1.4])  # held-out over training loss
    kappa = rng.uniform(0.8, 1.3)
    outliers = rng.choice([0.01, 0.04, 0.08, 0.15])
    reports = []
    for step in range(every, trial.max_train_steps + 1, every):
        clean = final + (began - final) * 2 ** (-step / half_life)
        clean = clean if step < relapse else clean + rng.uniform(0, 1) * (began - clean)
        counts = rng.multinomial(samples, trial.bin_share)
        nonfinite = np.minimum(counts, rng.choice([0, 0, 0, 0, 0, 1], 4) * rng.integers(0, 5, 4))
        losses = clean * rng.lognormal(0, noise, 4)
        losses[counts <= nonfinite] = NAN
        spike = rng.choice([1.0, 1.0, 1.0, 8.0]) if step > relapse else 1.0
        probe = None
        if step % (4 * every) == 0:
            held_out = (memory * clean * rng.lognormal(0, 0.02, 4)).tolist()
            probe = evaluation(
                held_out,
                kappa=kappa * rng.lognormal(0, 0.01),
                bin_x0_error=(0.1, 0.2, 0.5, float(rng.lognormal(1, 1))),
                shuffled_loss=(
                    float(np.mean(held_out)) * (1 + rng.uniform(0, 0.06))
                    if step % (20 * every) == 0
                    else None
                ),
            )
        reports.append(
            report(
                step,
                float(np.nanmean(losses)) if (counts > nonfinite).any() else NAN,
                bin_loss=tuple(losses.tolist()),
                bin_count=tuple(counts.tolist()),
                bin_nonfinite=tuple(nonfinite.tolist()),
                max_batch_loss=float(spike),
                grad_norm_median=float(rng.lognormal(0, 0.2)),
                clip_rate=float(rng.uniform()),
                outlier_norm_rate=float(outliers * rng.uniform(0.5, 1.5)),
                bin_grad_norm=tuple((norms * rng.lognormal(0, 0.1, 4)).tolist()),
                bin_grad_count=tuple(rng.integers(0, 60, 4).tolist()),
                nonfinite_steps=int(nonfinite.max(initial=0)),
                scaler_skips=int(rng.choice([0, 0, 0, every])),
                evaluation=probe,
                frozen_parameters=("head.weight",) if step == 10 * every else (),
            )
        )
    return reports


def inside(thing):
    """All that an object holds, as text, and what the objects that it is made of hold."""
    if isinstance(thing, set):
        return sorted(thing)
    if not hasattr(thing, "__dict__"):
        return repr(thing)
    return {name: inside(value) for name, value in vars(thing).items()}
