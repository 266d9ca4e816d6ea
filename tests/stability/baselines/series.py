"""Trials as plain series of losses and gradient norms, one value a step."""

from __future__ import annotations

import math

from stabsearch.records import ReferenceLoss, Report, Severity, TrialFacts
from stabsearch.stability.baselines.once import mean

NUM_BINS = 4
EVEN = (1 / NUM_BINS,) * NUM_BINS

FACTS = TrialFacts(
    max_train_steps=2000,
    lr_warmup_steps=0,
    report_every=25,
    clipping="global_norm",
    max_grad_norm=1.0,
    batch_numbers=4096,
    skips_nonfinite=False,
    bin_edges=(0, 250, 500, 750, 1000),
    bin_share=EVEN,
    reference=ReferenceLoss(
        bin_constant=(1.0,) * NUM_BINS,
        bin_zero=(1.0,) * NUM_BINS,
        bin_isotropic=(0.2,) * NUM_BINS,
        bin_linear=(0.1,) * NUM_BINS,
        bin_posterior=None,
        constant_score=10.0,
    ),
    learning_rate=1e-3,
    lr_schedule="constant",
    optimizer="adamw",
    prediction_type="epsilon",
    ema_schedule=None,
    ema_decay=None,
    ema_sigma_rel=None,
    eval_rows=100,
    terminal_kl=0.0,
    schedule_error=0.0,
)


def reports(losses, norms=None, *, report_every=25, clipped=None, bin_losses=None, samples=64):
    """Reports of a trial with these batch losses; ``norms`` None: not measured.

    ``clipped`` says of every step whether it clipped; ``bin_losses(loss)[K]`` how a batch's loss
    is spread over the bins.
    """
    bin_losses = bin_losses or (lambda loss: (loss,) * NUM_BINS)
    made = []
    for start in range(0, len(losses), report_every):
        window = tuple(losses[start : start + report_every])
        own = () if norms is None else tuple(norms[start : start + report_every])
        finite = [loss for loss in window if math.isfinite(loss)]
        is_clipped = [
            c
            for c, n in zip((clipped or [False] * len(losses))[start:], own, strict=False)
            if math.isfinite(n)
        ]
        bins = [mean(b) for b in zip(*map(bin_losses, finite), strict=True)]
        made.append(
            Report(
                step=start + len(window),
                learning_rate=1e-3,
                loss=mean(bins) if bins else math.nan,
                bin_loss=tuple(bins) or (math.nan,) * NUM_BINS,
                bin_count=(samples * len(window) // NUM_BINS,) * NUM_BINS,
                bin_nonfinite=(samples * (len(window) - len(finite)) // NUM_BINS,) * NUM_BINS,
                max_batch_loss=max(finite, default=math.nan),
                grad_norm_median=math.nan,
                grad_norm_max=math.nan,
                clip_rate=mean(is_clipped) if is_clipped else math.nan,
                clip_coef_mean=math.nan,
                clip_coef_cv=math.nan,
                outlier_norm_rate=0.0,
                clamped_fraction=0.0,
                bin_grad_norm=(math.nan,) * NUM_BINS,
                bin_grad_count=(0,) * NUM_BINS,
                bin_grad_cosine=None,
                nonfinite_steps=len(window) - len(finite),
                scaler_skips=0,
                first_nonfinite_step=None,
                first_nonfinite_bins=(),
                train_seconds=0.0,
                evaluation=None,
                batch_losses=window,
                grad_norms=own,
                frozen_parameters=(),
            )
        )
    return made


def verdicts(judge, made):
    return [verdict for report in made for verdict in judge.judge(report).verdicts]


def prune_step(judge, made):
    """Step of the first reason to stop."""
    found = [v.step for v in verdicts(judge, made) if v.severity is Severity.PRUNE]
    return min(found, default=None)
