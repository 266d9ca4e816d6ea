"""What a training may do and a user should know: allowed, but seldom meant."""

from __future__ import annotations

import math
from collections.abc import Callable

from stabsearch.spec.trainer import TrainerSpec
from stabsearch.thresholds import SAMPLES_PER_BIN

TERMINAL_KL_LIMIT = 0.01
"""Nats per dimension between x_T and the noise that a sampler starts from (rule R14)."""

HEAVY_SHARE = 0.5
"""Share of all loss weight that a single timestep should not have."""
MIN_WINDOWS = 8


def trainer_cautions(trainer: TrainerSpec) -> list[str]:
    """One sentence or two for everything that the trainer should be asked about."""
    return [text for check in _CHECKS if (text := check(trainer))]


def _blind_last_timestep(trainer: TrainerSpec) -> str:
    if trainer.prediction_type != "epsilon" or not trainer.noise_schedule.has_zero_terminal_snr:
        return ""
    return (
        "trainer.prediction_type: epsilon says nothing about the example at the last timestep, "
        "where no signal is left (zero terminal SNR). Use v_prediction or flow; the score leaves "
        "that timestep out."
    )


def _left_over_signal(trainer: TrainerSpec) -> str:
    from stabsearch.diffusion.noise_schedule import make_noise_schedule

    schedule = make_noise_schedule(**trainer.noise_schedule.model_dump())
    kl = schedule.terminal_kl(second_moment=1.0)
    if kl <= TERMINAL_KL_LIMIT:
        return ""
    return (
        f"trainer.noise_schedule: x_T still holds signal (KL to pure noise {kl:.2g} per dimension "
        f"for data of unit power; it should be below {TERMINAL_KL_LIMIT}), so a sampler that "
        "starts from noise starts somewhere else. Use more timesteps, a larger beta_end, or "
        "rescale_betas_zero_snr."
    )


def _untrained_last_timestep(trainer: TrainerSpec) -> str:
    vanishes = trainer.loss_weighting in ("snr", "min_snr", "soft_min_snr", "p2")
    if not trainer.noise_schedule.has_zero_terminal_snr:
        return ""
    if not vanishes and trainer.timestep_sampling != "log_normal":
        return ""
    what = (
        f"loss_weighting: {trainer.loss_weighting} gives"
        if vanishes
        else "timestep_sampling: log_normal draws"
    )
    return (
        f"trainer.{what} the last timestep, from which a sampler starts, nothing, because no "
        "signal is left there (zero terminal SNR). Use loss_weighting: none and uniform sampling."
    )


def _one_heavy_timestep(trainer: TrainerSpec) -> str:
    from stabsearch.diffusion.loss_weighting import loss_weights
    from stabsearch.diffusion.noise_schedule import make_noise_schedule

    if trainer.loss_weighting == "none":
        return ""
    weights = loss_weights(
        trainer.loss_weighting,
        make_noise_schedule(**trainer.noise_schedule.model_dump()),
        trainer.prediction_type,
        snr_gamma=trainer.snr_gamma,
        p2_k=trainer.p2_k,
        p2_gamma=trainer.p2_gamma,
        sigma_data=trainer.sigma_data,
    )
    timestep, share = int(weights.argmax()), float(weights.max() / weights.sum())
    if share <= HEAVY_SHARE:
        return ""
    return (
        f"trainer.loss_weighting: {trainer.loss_weighting} with prediction_type "
        f"{trainer.prediction_type} puts {share:.0%} of all weight on timestep {timestep}; the "
        "others are hardly trained. Use another weighting or prediction type."
    )


def _few_windows(trainer: TrainerSpec) -> str:
    bins, steps = trainer.num_timestep_bins, trainer.max_train_steps
    reports = math.ceil(SAMPLES_PER_BIN * bins / (trainer.batch_size * trainer.report_every))
    # A look ends with a report: it is as many of them as hold enough samples.
    looks = steps / (reports * trainer.report_every)
    if looks >= MIN_WINDOWS:
        return ""
    if reports == 1:
        why = f"report_every: one look at the loss is a report, of {trainer.report_every:,} steps"
        remedy = "Report more often"
    else:
        why = (
            f"num_timestep_bins: {bins} bins need {SAMPLES_PER_BIN} samples each for one look at "
            f"the loss, which is {reports * trainer.report_every:,} steps"
        )
        remedy = "Use fewer bins"
    return (
        f"trainer.{why}, and a trial has {steps:,}: that is {looks:.1f} looks, too few to see it "
        f"lose its progress. {remedy}, or train longer."
    )


def _clamped_loss(trainer: TrainerSpec) -> str:
    if trainer.loss != "clamped_mse":
        return ""
    return (
        "trainer.loss: clamped_mse has no gradient where it clamps: a run that has diverged stays "
        "frozen at a constant loss. The clamped share is reported (clamped_fraction); use huber "
        "to limit outliers."
    )


_CHECKS: tuple[Callable[[TrainerSpec], str], ...] = (
    _blind_last_timestep,
    _left_over_signal,
    _untrained_last_timestep,
    _one_heavy_timestep,
    _few_windows,
    _clamped_loss,
)
