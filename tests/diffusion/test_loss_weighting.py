from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion.loss_weighting import LOSS_WEIGHTINGS, loss_weights
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES

LINEAR = make_noise_schedule()
FLOW = make_noise_schedule(kind="flow_matching")
ZERO_SNR = make_noise_schedule(rescale_betas_zero_snr=True)

PUBLISHED = [
    # Hang et al. 2023 and diffusers' training examples
    ("min_snr", "sample", lambda snr: min(snr, 5)),
    ("min_snr", "epsilon", lambda snr: min(snr, 5) / snr),
    ("min_snr", "v_prediction", lambda snr: min(snr, 5) / (snr + 1)),
    ("soft_min_snr", "sample", lambda snr: 1 / (1 / snr + 1 / 5)),
    ("soft_min_snr", "epsilon", lambda snr: 5 / (snr + 5)),
    ("soft_min_snr", "v_prediction", lambda snr: 5 * snr / (snr + 5) / (snr + 1)),
    ("snr", "sample", lambda snr: snr),
    ("snr", "epsilon", lambda snr: 1.0),
    ("snr", "v_prediction", lambda snr: snr / (snr + 1)),
    # Choi et al. 2022 state it for the epsilon loss
    ("p2", "epsilon", lambda snr: 1 / (1 + snr)),
    ("p2", "sample", lambda snr: snr / (1 + snr)),
    # Karras et al. 2022: lambda(sigma) of the error of D(x; sigma), sigma^2 = 1 / SNR
    ("edm", "sample", lambda snr: (1 / snr + 0.25) / (0.25 / snr)),
    ("edm", "v_prediction", lambda snr: (1 / snr + 0.25) / (0.25 / snr) / (snr + 1)),
]


@pytest.mark.parametrize(("loss_weighting", "prediction_type", "published"), PUBLISHED)
def test_weights_are_the_published_ones(loss_weighting, prediction_type, published):
    weights = loss_weights(loss_weighting, LINEAR, prediction_type)
    expected = [published(snr) for snr in LINEAR.alphas_cumprod / LINEAR.one_minus_alphas_cumprod]

    assert weights == pytest.approx(expected, rel=1e-9)


def test_edm_weights_undo_the_scale_of_the_karras_network():
    """Karras et al. 2022: lambda c_out^2 = 1, the effective weight of F's own error."""
    sigma_squared = 1 / LINEAR.snr
    c_out_squared = sigma_squared * 0.7**2 / (sigma_squared + 0.7**2)
    weights = loss_weights("edm", LINEAR, "sample", sigma_data=0.7)

    assert weights * c_out_squared == pytest.approx(np.ones(1000), rel=1e-9)


def test_soft_min_snr_is_k_diffusions_form():
    """k-diffusion weighs F's error by (s sd)^2 / (s^2 + sd^2)^2, with gamma = 1 / sd^2."""
    sigma_squared, sd_squared = 1 / LINEAR.snr, 0.25
    c_out_squared = sigma_squared * sd_squared / (sigma_squared + sd_squared)
    on_f = sigma_squared * sd_squared / (sigma_squared + sd_squared) ** 2
    weights = loss_weights("soft_min_snr", LINEAR, "sample", snr_gamma=1 / sd_squared)

    assert weights == pytest.approx(on_f / c_out_squared, rel=1e-9)


@pytest.mark.parametrize("loss_weighting", sorted(set(LOSS_WEIGHTINGS) - {"none"}))
@pytest.mark.parametrize("schedule", [LINEAR, FLOW], ids=["linear", "flow_matching"])
def test_every_prediction_type_ends_up_with_the_same_weight_of_x0s_error(loss_weighting, schedule):
    kinds = [n for n in PREDICTION_TYPES if not (n == "epsilon" and schedule is FLOW)]
    on_x0 = [
        loss_weights(loss_weighting, schedule, name)
        * PREDICTION_TYPES[name].loss_per_sample_error(schedule)
        for name in kinds
    ]

    assert len(on_x0) >= 3
    for weights in on_x0[1:]:
        assert weights == pytest.approx(on_x0[0], rel=1e-9)


@pytest.mark.parametrize("prediction_type", sorted(PREDICTION_TYPES))
def test_without_a_weighting_every_weight_is_one(prediction_type):
    for schedule in (LINEAR, FLOW, ZERO_SNR):
        assert loss_weights("none", schedule, prediction_type).tolist() == [1.0] * 1000


@pytest.mark.parametrize("loss_weighting", sorted(set(LOSS_WEIGHTINGS) - {"none"}))
@pytest.mark.parametrize("schedule", [ZERO_SNR, FLOW], ids=["zero_snr", "flow_matching"])
def test_a_division_by_zero_is_refused_with_the_remedy(loss_weighting, schedule):
    with pytest.raises(ValueError, match=r"timestep 999.*Use prediction_type v_prediction"):
        loss_weights(loss_weighting, schedule, "epsilon")
    for prediction_type in sorted(set(PREDICTION_TYPES) - {"epsilon"}):
        weights = loss_weights(loss_weighting, schedule, prediction_type).astype(np.float32)

        assert np.all(np.isfinite(weights) & (weights >= 0))


def test_weights_hold_where_the_snr_is_below_its_limit():
    """6,000 linear timesteps end at an SNR of 1e-26; min_snr still leaves epsilon as it is."""
    schedule = make_noise_schedule(num_train_timesteps=6000)

    assert schedule.log_snr[-1] == -50
    assert loss_weights("min_snr", schedule, "epsilon")[-1] == pytest.approx(1.0)


def test_options_reach_their_weighting():
    snr = LINEAR.snr

    assert loss_weights("min_snr", LINEAR, "sample", snr_gamma=2.0).max() == 2.0
    assert loss_weights("p2", LINEAR, "epsilon", p2_k=3.0, p2_gamma=0.5) == pytest.approx(
        (3.0 + snr) ** -0.5
    )
