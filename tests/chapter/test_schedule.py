"""The chapter's noise schedule beside ours."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch

from stabsearch.diffusion.noise_schedule import linear_betas, make_noise_schedule
from stabsearch.diffusion.objective import Objective
from tests.chapter import chapter


@pytest.mark.parametrize(
    ("beta_schedule", "expected"), [("linear", 0.96), ("squaredcos_cap_v2", 0.71)]
)
def test_half_of_the_timesteps_is_not_half_of_the_noise(beta_schedule, expected):
    """Item 2. The noise level at T/2 is 0.5 in neither of the usual schedules: measured on zeros
    that were noised."""
    schedule = make_noise_schedule(beta_schedule=beta_schedule)
    objective = Objective(schedule, "epsilon", torch.device("cpu"))
    zeros = torch.zeros(500, 64)
    noise = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0))
    x_t, _ = objective.noised_and_target(zeros, torch.full((500,), 499), noise)
    measured = x_t.std().item()

    assert measured > 1.3 * chapter.SIGMA_AT_HALF
    assert measured == pytest.approx(expected, abs=0.01)
    assert measured == pytest.approx(schedule.sigma[499], rel=0.02)


def test_log_space_solves_no_underflow_and_keeps_the_cancellation():
    """Item 12. alphas_cumprod is far from underflow; what float32 loses is 1 - alphas_cumprod at
    small t, by the plain product and by the chapter's sum of logarithms alike."""
    betas = linear_betas(1000, 1e-4, 0.02)
    exact = noise_variance(betas)
    single = torch.tensor(betas, dtype=torch.float32)
    plain = (1 - single).cumprod(0)
    in_log_space = chapter.compute_schedule_stable(single)["alphas_cumprod"]
    ours = torch.tensor(make_noise_schedule().one_minus_alphas_cumprod, dtype=torch.float32)

    assert plain.min() > 1e30 * torch.finfo(torch.float32).tiny
    assert relative_error(1 - plain, exact) > 1e-4
    assert relative_error(1 - in_log_space, exact) > 1e-4
    assert relative_error(ours, exact) < 2e-7
    # half precision: no noise at all at the first timestep
    assert (1 - in_log_space.half())[0] == 0
    assert ours.half()[0] > 0


def noise_variance(betas):
    """1 - alphas_cumprod in 50 digits, ``[T]``."""
    getcontext().prec = 50
    left, exact = Decimal(1), []
    for beta in betas:
        left *= 1 - Decimal(float(beta))
        exact.append(float(1 - left))
    return np.array(exact)


def relative_error(values, exact):
    return np.abs(values.double().numpy() / exact - 1).max()


def test_one_sided_clamps_let_infinities_and_nan_through():
    """Item 13. A last beta of 1 (zero terminal SNR) gives log SNR = -inf and an infinite weight
    1 / SNR; a beta above 1 gives NaN, in silence."""
    betas = np.linspace(1e-4, 0.02, 50)
    zero_terminal, impossible = betas.copy(), betas.copy()
    zero_terminal[-1], impossible[25] = 1.0, 1.1
    theirs = chapter.compute_schedule_stable(torch.tensor(zero_terminal))
    nonsense = chapter.compute_schedule_stable(torch.tensor(impossible))
    ours = given(zero_terminal)

    assert theirs["log_snr"][-1] == -torch.inf
    assert (1 / theirs["snr"])[-1] == torch.inf
    assert nonsense["log_snr"].isnan().any()
    assert np.isfinite(ours.log_snr).all()
    assert np.isfinite((1 / ours.snr).astype(np.float32)).all()
    with pytest.raises(ValueError, match=r"betas\[25\] is 1.1"):
        given(impossible)


def given(betas):
    return make_noise_schedule(
        beta_schedule="given", trained_betas=betas, num_train_timesteps=len(betas)
    )
