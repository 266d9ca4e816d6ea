from __future__ import annotations

import copy
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prepared_data import prepare_data
from stabsearch.spec import DataSpec, ModelSpec, NoiseScheduleSpec, TrainerSpec
from stabsearch.training import checkpoint
from stabsearch.training.trainer import Trainer, weighted
from tests.training.host_reads import NoHostReads

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
        {"model": ModelSpec(name="tests.search.models:FoldsPixelsIntoTheBatch")},
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


def test_a_model_that_works_in_place_does_not_spoil_the_grid():
    model = ModelSpec(name="tests.search.models:WorksInPlace")
    trainer = Trainer(spec(model=model, ema_decay=0.0), 0)
    trainer.train_steps(1, SimpleNamespace(observe=lambda record: None))
    first, again = trainer.evaluate(), trainer.evaluate()

    assert first == again
    assert first.loss_ema == first.loss_raw


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no parameter to train"):
        Trainer(spec(model=ModelSpec(name="torch.nn:Identity")), 0)


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


# --- gradients of single samples ----------------------------------------------------------------


def one_step(trainer):
    """The records of the next step."""
    records = []
    trainer.train_steps(1, SimpleNamespace(observe=records.append))
    return records[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prediction_type": "v_prediction", "loss_weighting": "min_snr"},
        {"loss": "huber", "huber_delta": 0.3},
        {"timestep_sampling": "loss_second_moment", "noise_schedule": FEW_TIMESTEPS},
        {"precision": "fp16"},
    ],
    ids=str,
)
def test_measured_norms_are_those_of_each_samples_own_optimised_loss(changes):
    """Against a loop: one backward for every sample of the batch, at the same weights."""
    trainer = Trainer(spec(grad_norm_every=30, **changes), 0)
    trainer.train_steps(30, SimpleNamespace(observe=lambda record: None))
    seen = {}
    losses_of = trainer._losses

    def remember(x_t, target, batch):
        seen.update(x_t=x_t, target=target, batch=batch)
        seen["model"] = copy.deepcopy(trainer._model)
        return losses_of(x_t, target, batch)

    trainer._losses = remember
    record = one_step(trainer)

    batch, expected = seen["batch"], []
    for i in range(16):
        row = slice(i, i + 1)
        prediction = seen["model"](seen["x_t"][row], batch.timesteps[row])
        losses = trainer._objective.sample_losses(
            prediction, seen["target"][row], batch.timesteps[row]
        )
        loss = weighted(
            losses.training,
            batch.importance if batch.importance is None else batch.importance[row],
        )
        gradients = torch.autograd.grad(loss.sum(), list(seen["model"].parameters()))
        expected.append(sum(g.square().sum().item() for g in gradients))

    tolerance = 0.02 if "precision" in changes else 1e-5
    assert record.squared_grad_norms.tolist() == pytest.approx(expected, rel=tolerance)


def test_measuring_does_not_change_the_trajectory():
    def losses(**changes):
        model = ModelSpec(name="tests.search.models:WithDropout")
        return [r.loss for r in run(Trainer(spec(model=model, **changes), 0))]

    assert losses(grad_norm_every=7) == losses(grad_norm_every=0)


def test_reports_hold_the_norms_of_the_measured_steps():
    reports = run(Trainer(spec(grad_norm_every=4, report_every=10), 0))

    assert [sum(r.bin_grad_count) for r in reports] == [3 * 16, 2 * 16] * 3
    assert all(1 <= r.grad_effective_bins <= 10 for r in reports)
    assert sum(reports[0].bin_grad_share) == pytest.approx(1)


def test_grad_norm_every_0_measures_nothing():
    reports = run(Trainer(spec(grad_norm_every=0), 0))

    assert all(sum(r.bin_grad_count) == 0 and r.bin_grad_cosine is None for r in reports)
    assert all(math.isnan(r.grad_effective_bins) for r in reports)


def test_cosines_come_at_a_twentieth_a_fifth_and_half_of_the_budget():
    reports = run(Trainer(spec(max_train_steps=100, report_every=10, eval_every=50), 0))
    probed = {r.step: r.bin_grad_cosine for r in reports if r.bin_grad_cosine is not None}

    assert list(probed) == [10, 20, 50]
    for cosines in probed.values():
        matrix = np.array(cosines)
        assert np.allclose(np.diag(matrix), 1, atol=1e-5)
        assert np.allclose(matrix, matrix.T)
        assert (np.abs(matrix) <= 1 + 1e-5).all()


def test_neighbouring_bins_pull_the_same_way_and_a_probe_repeats_itself():
    trainer = Trainer(spec(), 0)
    trainer.train_steps(30, SimpleNamespace(observe=lambda record: None))
    first, again = (trainer._bin_grad_cosines(0) for _ in range(2))

    assert first == again
    assert first[6][7] > first[0][9]


class TestModelsThatGhostNormsDoNotKnow:
    def test_a_probe_measures_them_less_often_and_the_trial_says_so(self):
        model = ModelSpec(name="tests.search.models:WithADirectParameter")
        trainer = Trainer(spec(model=model, max_train_steps=120, grad_norm_every=10), 0)
        counts = {r.step: sum(r.bin_grad_count) for r in run(trainer)}

        assert {step for step, count in counts.items() if count} == {10, 110}
        (remark,) = trainer.facts.remarks
        assert "a probe every 100 steps" in remark
        assert "WithADirectParameter" in remark

    def test_the_probe_agrees_with_ghost_norms(self):
        ghost = Trainer(spec(), 0)
        probed = Trainer(spec(), 0)
        probed._sample_gradients._probe_instead("this is a test")

        assert one_step(probed).squared_grad_norms.tolist() == pytest.approx(
            one_step(ghost).squared_grad_norms.tolist(), rel=1e-5
        )

    def test_a_batch_that_is_not_the_first_dimension_is_found_out(self):
        model = ModelSpec(name="tests.search.models:FoldsPixelsIntoTheBatch")
        trainer = Trainer(spec(model=model), 0)
        report = trainer.train_window()

        assert sum(report.bin_grad_count) == 16
        assert "a probe every 100 steps" in trainer.facts.remarks[0]

    def test_what_cannot_be_measured_at_all_is_said_and_trains_on(self):
        model = ModelSpec(name="tests.search.models:WithBatchNorm")
        trainer = Trainer(spec(model=model), 0)
        reports = run(trainer)

        assert sum(sum(r.bin_grad_count) for r in reports) == 0
        assert "were not measured" in trainer.facts.remarks[0]
        assert reports[-1].loss < reports[0].loss


# --- options that only the whole trainer shows ------------------------------------------------


def test_a_clamped_loss_reports_the_share_that_it_clamps():
    free = Trainer(spec(loss="clamped_mse", loss_clamp=1e9), 0).train_window()
    tight = Trainer(spec(loss="clamped_mse", loss_clamp=0.5), 0).train_window()

    assert free.clamped_fraction == 0
    assert 0.2 < tight.clamped_fraction < 0.8
    assert tight.loss > 0.5  # what is reported is not clamped


def test_fp16_trains_and_counts_the_scalers_skips_apart():
    reports = run(Trainer(spec(max_train_steps=200, precision="fp16"), 0))
    fp32 = run(Trainer(spec(max_train_steps=200), 0))

    assert reports[-1].evaluation.loss_raw == pytest.approx(fp32[-1].evaluation.loss_raw, rel=0.05)
    assert sum(r.nonfinite_steps for r in reports) == 0


def test_a_scale_that_overflows_is_a_scaler_skip_and_training_recovers():
    trainer = Trainer(spec(precision="fp16"), 0)
    trainer._optimizer_step._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    first, second = trainer.train_window(), trainer.train_window()

    assert first.scaler_skips > 0
    assert first.nonfinite_steps == 0
    assert second.scaler_skips == 0


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_weights_survive_a_gradient_that_is_not_finite(policy):
    model = ModelSpec(name="tests.search.models:TurnsNaN", first_nan_step=14)
    trainer = Trainer(spec(model=model, nonfinite_gradients=policy), 0)
    run(trainer)

    assert trainer.facts.skips_nonfinite is (policy == "skip")
    assert all(p.isfinite().all() for p in trainer._model.parameters())


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_loss():
    plain = run(Trainer(spec(), 0))
    compiled = run(Trainer(spec(compile=True), 0))

    assert compiled[-1].loss == pytest.approx(plain[-1].loss, rel=1e-3)
    assert compiled[0].bin_grad_norm == pytest.approx(
        plain[0].bin_grad_norm, rel=1e-3, nan_ok=True
    )


# --- nothing in a step waits for the device -----------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_grad_norm": None, "ema_schedule": "power"},
        {"clipping": "per_parameter_norm", "optimizer": "sgd"},
        {"clipping": "per_parameter_value", "optimizer": "adam"},
        {"clipping": "agc", "loss": "huber"},
        {"clipping": "autoclip", "loss": "clamped_mse"},
        {"timestep_sampling": "stratified", "prediction_type": "v_prediction"},
        {"timestep_sampling": "log_normal", "loss_weighting": "edm"},
        {"timestep_sampling": "loss_second_moment", "prediction_type": "flow"},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"model": ModelSpec(name="unet", width=8)},
        {"model": ModelSpec(name="dit", width=16, num_blocks=1)},
    ],
    ids=str,
)
def test_a_step_reads_nothing_from_the_device(changes):
    """Ghost norms included. On a CPU the host decides whether a step is taken; here it is told to
    leave that to the device, as on a GPU."""
    trainer = Trainer(spec(grad_norm_every=2, **changes), 0)
    trainer._optimizer_step._decides_on_device = True
    trainer.train_steps(1, SimpleNamespace(observe=lambda record: None))  # lazy initialisation
    with NoHostReads():
        trainer.train_steps(4, trainer._telemetry)

    assert sum(trainer._telemetry.read().bin_grad_count) == 2 * 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_on_a_gpu_does_not_synchronise(precision):
    trainer = Trainer(spec(grad_norm_every=2, device="cuda", precision=precision), 0)
    trainer.train_steps(3, SimpleNamespace(observe=lambda record: None))
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_steps(4, trainer._telemetry)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert sum(trainer._telemetry.read().bin_grad_count) == 2 * 16
