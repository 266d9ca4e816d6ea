from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prepared_data import prepare_data
from stabsearch.spec import DataSpec, ModelSpec, NoiseScheduleSpec, TrainerSpec
from stabsearch.training import checkpoint
from stabsearch.training.trainer import Trainer

FEW_TIMESTEPS = NoiseScheduleSpec(num_train_timesteps=20)
"""So few that the loss-second-moment sampler leaves its uniform start within a short test."""


def spec(**changes):
    fields = {
        "model": ModelSpec(name="mlp", width=16, num_blocks=1),
        "max_train_steps": 60,
        "report_every": 10,
        "eval_every": 20,
        "eval_samples": 100,
        "batch_size": 16,
    }
    return TrainerSpec(**fields | changes)


def run(trainer):
    reports = []
    while not trainer.is_finished:
        reports.append(trainer.train_window())
    return reports


def without_times(report):
    return dataclasses.replace(report, train_seconds=0.0)


def same(first, second):
    """Equal field by field, with NaN equal to NaN."""
    return repr([without_times(r) for r in first]) == repr([without_times(r) for r in second])


def test_training_lowers_the_held_out_loss_below_the_constant_prediction():
    model = ModelSpec(name="mlp", width=64, num_blocks=2)
    trainer = Trainer(spec(model=model, batch_size=64, max_train_steps=300), 0)
    before = trainer.evaluate().loss_raw
    after = run(trainer)[-1].evaluation

    assert after.loss_raw < 0.5 * before
    assert after.score_raw < 0.5 * trainer.facts.reference.constant_score


def test_same_setting_and_seed_give_the_same_reports():
    assert same(run(Trainer(spec(), 0)), run(Trainer(spec(), 0)))


def test_another_seed_gives_other_reports():
    assert not same(run(Trainer(spec(), 0)), run(Trainer(spec(), 1)))


def test_a_trial_does_not_depend_on_what_the_worker_did_before():
    alone = run(Trainer(spec(), 0))
    run(Trainer(spec(learning_rate=0.5, max_grad_norm=None), 7))
    torch.randn(10)

    assert same(run(Trainer(spec(), 0)), alone)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": None},
        {"ema_schedule": "power"},
        {"optimizer": "sgd"},
        {"optimizer": "NAdam"},
        {"clipping": "autoclip"},
        {"timestep_sampling": "stratified"},
        {"timestep_sampling": "loss_second_moment", "noise_schedule": FEW_TIMESTEPS},
        {"precision": "fp16"},
        {"model": ModelSpec(name="tests.search.models:WithDropout")},
        {"noise_schedule": NoiseScheduleSpec(kind="flow_matching"), "prediction_type": "flow"},
    ],
    ids=str,
)
def test_restored_checkpoint_continues_bit_for_bit(changes, tmp_path):
    whole = run(Trainer(spec(**changes), 0))
    first = Trainer(spec(**changes), 0)
    first.train_window(), first.train_window()
    checkpoint.save(tmp_path / "trial.safetensors", first.state_dict())
    resumed = Trainer(spec(**changes), 0)
    resumed.train_window()
    resumed.load_state_dict(checkpoint.load(tmp_path / "trial.safetensors"))

    assert same(run(resumed), whole[2:])


def test_a_nan_is_reported_with_its_step_and_never_averaged():
    poisoned_model = ModelSpec(name="tests.search.models:TurnsNaN", first_nan_step=14)
    trainer = Trainer(spec(model=poisoned_model), 0)
    healthy, poisoned = trainer.train_window(), trainer.train_window()

    assert healthy.nonfinite_steps == 0
    assert poisoned.first_nonfinite_step == 14
    assert poisoned.nonfinite_steps == 7
    assert sum(poisoned.bin_nonfinite) == 7 * 16
    assert math.isfinite(poisoned.loss)
    assert math.isfinite(poisoned.grad_norm_median)


def test_report_counts_every_sample_and_its_loss_is_the_mean_of_the_bin_means():
    report = Trainer(spec(), 0).train_window()

    assert sum(report.bin_count) == 10 * 16
    assert report.loss == pytest.approx(np.nanmean(report.bin_loss))


def test_evaluations_come_at_their_interval_and_at_the_end():
    steps = [r.step for r in run(Trainer(spec(max_train_steps=50), 0)) if r.evaluation]

    assert steps == [20, 40, 50]


def test_last_window_may_be_shorter():
    reports = run(Trainer(spec(max_train_steps=25), 0))

    assert [r.step for r in reports] == [10, 20, 25]
    assert sum(reports[-1].bin_count) == 5 * 16


def test_no_clipping_trains_as_a_clip_that_never_acts():
    unclipped = run(Trainer(spec(max_grad_norm=None), 0))
    loose = run(Trainer(spec(max_grad_norm=1e9), 0))

    assert same(unclipped, loose)
    assert all(r.clip_rate == 0.0 and r.clip_coef_mean == 1.0 for r in unclipped)


def test_without_ema_both_evaluations_are_the_raw_one():
    evaluation = Trainer(spec(ema_decay=None), 0).evaluate()

    assert evaluation.score_ema == evaluation.score_raw
    assert evaluation.kappa == 1.0


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "flow"])
def test_the_best_constant_prediction_scores_the_constant_score(prediction_type):
    """A model that predicts the constant: its measured score is the reference's, within the
    sampling error of the grid."""
    trainer = Trainer(
        spec(prediction_type=prediction_type, eval_samples=20_000, num_timestep_bins=10), 0
    )
    mean = torch.from_numpy(prepare_data(DataSpec()).dataset.train.mean(axis=0))

    sigmas = torch.from_numpy(make_noise_schedule().sigma).float()

    class Constant(nn.Module):
        def forward(self, x_t, timesteps):
            sigma = sigmas[timesteps].view(-1, 1, 1, 1)
            return {
                "epsilon": torch.zeros_like(x_t),
                "sample": mean.expand_as(x_t),
                "v_prediction": -sigma * mean,
                "flow": -mean.expand_as(x_t),
            }[prediction_type]

    trainer._model, trainer._ema = Constant(), None
    evaluation = trainer.evaluate()
    reference = trainer.facts.reference

    assert evaluation.loss_raw == pytest.approx(reference.constant, rel=0.03)
    assert evaluation.score_raw == pytest.approx(reference.constant_score, rel=0.03)


def test_evaluation_grid_does_not_depend_on_the_setting_or_the_seed():
    first = Trainer(spec(), 0)._grid
    second = Trainer(spec(learning_rate=0.1, max_grad_norm=None), 5)._grid

    assert torch.equal(first._x_t, second._x_t)
    assert torch.equal(first._timesteps, second._timesteps)


def test_evaluating_does_not_change_the_trajectory():
    looked, undisturbed = Trainer(spec(), 0), Trainer(spec(), 0)
    looked.train_window(), undisturbed.train_window()
    weights = copy.deepcopy(looked._model.state_dict())
    looked.evaluate()

    assert all(torch.equal(v, weights[k]) for k, v in looked._model.state_dict().items())
    assert same(run(looked), run(undisturbed))


def test_bf16_trains_to_nearly_the_same_loss():
    fp32 = run(Trainer(spec(max_train_steps=200), 0))[-1].evaluation.loss_raw
    bf16 = run(Trainer(spec(max_train_steps=200, precision="bf16"), 0))[-1].evaluation.loss_raw

    assert bf16 == pytest.approx(fp32, rel=0.05)
    assert bf16 != fp32
