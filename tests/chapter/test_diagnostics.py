"""The chapter's rules and advice on real runs, beside the signals that ours carry.

The rules that read those signals are the analyzer's; here it is measured that the chapter's read
them wrongly, and that the information is there.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stabsearch.diffusion.noise_schedule import NoiseSchedule, make_noise_schedule
from stabsearch.diffusion.objective import Objective
from stabsearch.spec import ModelSpec
from tests.chapter import chapter


def bar(run):
    """Half-way between the best constant prediction and the best scalar gain."""
    return (run.reference.constant + run.reference.isotropic) / 2


def findings(run):
    by_timestep = dict(enumerate(run.evaluation.bin_loss_raw))
    return chapter.analyze_diagnostics(
        chapter.TrainingDiagnostics(losses=[1.0, 0.9], timestep_losses=by_timestep)
    )


def test_imbalance_rule_fires_on_the_healthy_run_only(train):
    """Item 5. Max > 5 min over timesteps is the shape of a good epsilon loss; a dead network and
    one that never moved are even. Beside the reference losses it is the other way round."""
    healthy = train()
    dead = train(learning_rate=0.1)
    unmoved = train(learning_rate=1e-7)

    assert chapter.IMBALANCED in findings(healthy)
    assert chapter.IMBALANCED not in findings(dead)
    assert chapter.IMBALANCED not in findings(unmoved)
    assert healthy.evaluation.loss_raw < bar(healthy)
    assert dead.evaluation.loss_raw > bar(dead)
    assert unmoved.evaluation.loss_raw > bar(unmoved)
    # L_lin alone, the best linear denoiser, would be called out of balance
    assert max(healthy.reference.bin_linear) > 1000 * min(healthy.reference.bin_linear)


def test_single_timesteps_fill_slowly_and_never_forget(train, train_as_the_chapter):
    """Item 6. After 100 steps of 64 samples few of 1,000 timesteps have the 10 losses that the
    chapter asks for; when all have, the means still hold the first steps. Ours are bins of a
    window."""
    early = train_as_the_chapter(steps=100).diagnostics
    late = train_as_the_chapter().diagnostics
    report = train().reports[-1]
    now = train().evaluation.loss_raw

    assert len(early.timestep_losses) < 200
    assert np.mean(list(late.timestep_losses.values())) > 1.5 * np.mean(late.losses[-100:])
    assert min(report.bin_count) > 100
    assert report.loss == pytest.approx(now, rel=0.15)


@pytest.mark.parametrize("learning_rate", [1.0, 3.0])
def test_loss_increasing_is_blind_to_a_run_that_died_at_once(
    learning_rate, train, train_as_the_chapter
):
    """Item 7. If the first 100 steps were worse still, the last 100 look like progress. But the
    loss of a constant prediction is known beforehand, and the network is no better."""
    run = train_as_the_chapter(learning_rate=learning_rate, loss_clip=torch.inf)
    ours = train(learning_rate=learning_rate)

    assert np.mean(run.diagnostics.losses[-100:]) > 1  # worse than predicting zero
    assert chapter.LOWER_LR not in chapter.analyze_diagnostics(run.diagnostics)
    assert ours.reports[-1].loss > bar(ours)


def test_stuck_rule_sees_no_stuck_run_and_tells_a_diverged_one_to_go_faster(
    train, train_as_the_chapter
):
    """Item 8. The loss of a frozen network varies by its draws of t: hundreds of times the
    threshold, which a batch of tens of thousands would reach. Under a loss clip a diverged run is
    constant: the rule advises a higher learning rate."""
    frozen = train_as_the_chapter(learning_rate=1e-7).diagnostics
    diverged = train_as_the_chapter(learning_rate=3.0).diagnostics
    ours = train(learning_rate=1e-7)
    variance = np.var(frozen.losses[-100:])

    assert chapter.RAISE_LR not in chapter.analyze_diagnostics(frozen)
    assert variance * 64 / 1e-6 > 10_000  # the batch it would take
    assert chapter.RAISE_LR in chapter.analyze_diagnostics(diverged)
    # ours: no progress towards L_iso, and that is what a report can be asked
    first, last = ours.reports[0].loss, ours.reports[-1].loss
    assert abs(first - last) < 0.05 * (ours.reference.constant - ours.reference.isotropic)
    assert last > bar(ours)


def test_poor_time_conditioning_does_not_even_out_the_loss(train, held_out):
    """Item 21. "The loss is similar across t": not even that of a network that is told no timestep
    at all, because x_t shows its noise. Telling it other timesteps does."""
    healthy, blind = train(), train(model=ModelSpec(name="mlp", time_embedding="none"))
    spread = {
        name: max(run.evaluation.bin_loss_raw) / min(run.evaluation.bin_loss_raw)
        for name, run in {"healthy": healthy, "blind": blind}.items()
    }

    assert spread["blind"] > 5
    assert spread["blind"] == pytest.approx(spread["healthy"], rel=0.4)
    assert permutation_ratio(healthy.model, held_out) > 1.1
    assert permutation_ratio(blind.model, held_out) == 1


@torch.no_grad()
def permutation_ratio(model, held_out):
    """Loss with the timesteps of other examples over that with their own."""
    generator = torch.Generator().manual_seed(0)
    x0 = held_out.repeat(7, 1, 1, 1)
    timesteps = torch.randint(1000, (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    objective = Objective(make_noise_schedule(), "epsilon", torch.device("cpu"))
    x_t, target = objective.noised_and_target(x0, timesteps, noise)
    own, permuted = (
        objective.sample_losses(model(x_t, told), target, timesteps).mse.mean()
        for told in (timesteps, timesteps[torch.randperm(len(x0), generator=generator)])
    )
    return (permuted / own).item()


def test_artifacts_at_high_noise_are_no_lack_of_capacity(train):
    """Item 22. At t near T an epsilon loss of a few percent is, as an error of x0, hundreds of
    times that of the best scalar gain. Twice the width does not mend that; predicting v does."""
    narrow, wide = train(), train(model=ModelSpec(name="mlp", width=128))
    v_prediction = train(prediction_type="v_prediction")

    assert narrow.evaluation.bin_loss_raw[-1] < 0.1  # looks like the best bin of all
    assert over_isotropic(narrow) > 100
    assert over_isotropic(wide) > 100
    assert over_isotropic(v_prediction) < 1.25


def over_isotropic(run):
    """Error of the last bin over that of the best scalar gain: the same ratio in every space."""
    return run.evaluation.bin_loss_raw[-1] / run.reference.bin_isotropic[-1]


def test_good_loss_with_bad_samples_needs_a_denoiser_that_is_known_to_be_right(data):
    """Item 23. The loss knows nothing of the sampler. With the best linear denoiser, whose loss is
    beyond doubt, a sampler's output has a known covariance: the data's. A sampler with another
    schedule's tables misses it by far, and the loss is what it was."""
    eigenvalues = data.statistics.eigenvalues[-8:]  # the largest
    trained, other = (
        make_noise_schedule(),
        make_noise_schedule(beta_schedule="squaredcos_cap_v2"),
    )
    right = sampled_variance(eigenvalues, trained, sampler=trained)
    wrong = sampled_variance(eigenvalues, trained, sampler=other)

    assert np.abs(np.log(right / eigenvalues)).mean() < 0.2
    assert np.abs(np.log(wrong / eigenvalues)).mean() > 0.5


def sampled_variance(eigenvalues, trained: NoiseSchedule, *, sampler: NoiseSchedule):
    """Of DDIM with 100 steps along each principal component: all is linear there, so that a
    sample is the first noise times a number."""
    x = np.ones_like(eigenvalues)
    timesteps = np.linspace(999, 0, 100).round().astype(int)
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        signal, sigma = trained.signal[t], trained.sigma[t]
        x0 = signal * eigenvalues / (signal**2 * eigenvalues + sigma**2) * x
        noise = (x - signal * x0) / sigma  # what the model would predict
        x0 = (x - sampler.sigma[t] * noise) / sampler.signal[t]
        x = (
            x0
            if following is None
            else (sampler.signal[following] * x0 + sampler.sigma[following] * noise)
        )
    return x**2
