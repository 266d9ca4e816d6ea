"""Hand-made reports for the analyzer's tests: epsilon-like references, four bins."""

from __future__ import annotations

import math

from stabsearch.records import Evaluation, ReferenceLoss, Report, TrialFacts

NUM_BINS = 4
REFERENCE = ReferenceLoss(
    bin_constant=(1.0,) * NUM_BINS,
    bin_zero=(1.0,) * NUM_BINS,
    bin_isotropic=(0.6, 0.15, 0.04, 0.01),
    bin_linear=(0.4, 0.1, 0.03, 0.01),
    bin_posterior=None,
    constant_score=20.0,
)
"""C0 = 1, L_iso = 0.2: the bar of R1c is 0.6, a possible progress of 0.8."""


def facts(**changes):
    fields = {
        "max_train_steps": 2000,
        "lr_warmup_steps": 100,
        "report_every": 25,
        "clipping": "global_norm",
        "max_grad_norm": 1.0,
        "batch_numbers": 10**8,  # so many that a batch mean has no noise
        "skips_nonfinite": False,
        "bin_edges": (0, 250, 500, 750, 1000),
        "bin_share": (1 / NUM_BINS,) * NUM_BINS,
        "reference": REFERENCE,
        "learning_rate": 1e-3,
        "lr_schedule": "constant",
        "optimizer": "adamw",
        "prediction_type": "epsilon",
        "ema_schedule": "ramped",
        "ema_decay": 0.9999,
        "ema_sigma_rel": 0.1,
        "eval_rows": 100,
        "terminal_kl": 1e-5,
        "schedule_error": 1e-7,
    }
    return TrialFacts(**fields | changes)


def report(step, loss, **changes):
    """A window with the same loss in every bin."""
    fields = {
        "step": step,
        "learning_rate": 1e-3,
        "loss": loss,
        "bin_loss": (loss,) * NUM_BINS,
        "bin_count": (400,) * NUM_BINS,
        "bin_nonfinite": (0,) * NUM_BINS,
        "max_batch_loss": loss,
        "grad_norm_median": 1.0,
        "grad_norm_max": 2.0,
        "clip_rate": 0.0,
        "clip_coef_mean": 1.0,
        "clip_coef_cv": 0.0,
        "outlier_norm_rate": 0.0,
        "clamped_fraction": 0.0,
        "bin_grad_norm": (1.0,) * NUM_BINS,
        "bin_grad_count": (40,) * NUM_BINS,
        "bin_grad_cosine": None,
        "nonfinite_steps": 0,
        "scaler_skips": 0,
        "first_nonfinite_step": None,
        "first_nonfinite_bins": (),
        "train_seconds": 0.0,
        "evaluation": None,
        "batch_losses": (loss,),
        "grad_norms": (1.0,),
        "frozen_parameters": (),
    }
    return Report(**fields | changes)


def nan_report(step, first_step, bins=(3,)):
    return report(
        step,
        math.nan,
        bin_loss=(math.nan,) * NUM_BINS,
        bin_nonfinite=(400,) * NUM_BINS,
        nonfinite_steps=step - first_step + 1,
        first_nonfinite_step=first_step,
        first_nonfinite_bins=bins,
    )


def curve(losses, report_every=25):
    """One report per loss, at steps report_every, 2 report_every, ..."""
    return [report((i + 1) * report_every, loss) for i, loss in enumerate(losses)]


def evaluation(losses, *, kappa=1.0, **changes):
    """Held-out losses of the four bins; those of the averaged weights are kappa times them."""
    fields = {
        "bin_loss_raw": tuple(losses),
        "bin_loss_ema": tuple(kappa * loss for loss in losses),
        "score_raw": 2.0,
        "score_ema": 2.0,
        "bin_x0_error": (0.5,) * NUM_BINS,
        "shuffled_loss": None,
    }
    return Evaluation(**fields | changes)
