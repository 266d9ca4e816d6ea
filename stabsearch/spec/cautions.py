"""What a training may do and a user should know: allowed, but seldom meant."""

from __future__ import annotations

from collections.abc import Callable

from stabsearch.spec.trainer import TrainerSpec

TERMINAL_KL_LIMIT = 0.01
"""Nats per dimension between x_T and the noise that a sampler starts from (rule R14)."""


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
    _clamped_loss,
)
