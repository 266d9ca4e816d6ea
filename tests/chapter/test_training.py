"""The chapter's trainer beside ours: warm-up, averages, evaluation, and code that cannot run."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabsearch.diffusion.models import MODELS
from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.objective import Objective
from stabsearch.diffusion.reference_loss import reference_curves
from stabsearch.spec import TrainerSpec
from stabsearch.training.ema import Ema, make_ema
from stabsearch.training.evaluation import EvaluationGrid
from stabsearch.training.trainer import Trainer
from tests.chapter import chapter

CPU = torch.device("cpu")
FP32 = torch.autocast("cpu", enabled=False)


@pytest.fixture
def make_grid(data, held_out):
    """The evaluation grid of our trainer, with a seed."""
    schedule = make_noise_schedule()
    return functools.partial(
        EvaluationGrid,
        held_out,
        Objective(schedule, "epsilon", CPU),
        reference_curves(data.statistics, schedule, "epsilon"),
        schedule.bin_edges(10),
        594,
        device=CPU,
    )


def averaged(run):
    """The model of a finished training of ours, and its average."""
    model = run.model
    ema = make_ema(model, run.trainer.spec)
    ema.load_state_dict(run.trainer.state_dict()["ema"])
    return model, ema


def test_warm_up_of_fixed_length_wastes_its_first_step_and_hides_the_learning_rate(
    data, train, train_as_the_chapter
):
    """Item 15. Step / W is 0 at the first step. And a trial of 150 steps with W = 1000 never comes
    to its learning rate: it calls a rate fine that ruins a longer one. Ours warms up over a share
    of the trial, and the short trial finds it out."""
    slow = {"learning_rate": 0.2, "warmup_steps": 1000}
    untrained, one_step = (train_as_the_chapter(steps=steps, **slow) for steps in (0, 1))
    start = Trainer(TrainerSpec(report_every=1, eval_every=1, device="cpu"), 0, data)
    before = copy.deepcopy(start.state_dict()["model"])
    start.train_window()

    assert weights_are_equal(one_step.model.state_dict(), untrained.model.state_dict())
    assert not weights_are_equal(start.state_dict()["model"], before)

    short, long = (train_as_the_chapter(steps=steps, **slow) for steps in (150, 700))
    ours = train(steps=150, learning_rate=0.2)

    assert np.mean(short.diagnostics.losses[-20:]) < 0.4
    assert np.mean(long.diagnostics.losses[-20:]) > 0.8
    assert ours.evaluation.loss_raw > 0.9


def weights_are_equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_fixed_ema_decay_evaluates_the_initialisation(train, train_as_the_chapter, held_out):
    """Item 16. After 400 steps an average with decay 0.9999 is 96% initial weights: its loss is
    that of an untrained network, several times that of the trained one. Ours is ramped."""
    trainer = train_as_the_chapter()
    torch.manual_seed(0)
    timesteps = torch.randint(1000, (len(held_out),))
    with torch.no_grad():
        raw = trainer.sample_losses(held_out, timesteps, torch.randn_like(held_out)).mean()
    ema_loss, _ = trainer.evaluate(held_out)

    assert ema_loss > 4 * raw
    assert ema_loss > 0.9
    assert train().evaluation.kappa == pytest.approx(0.93, abs=0.1)


class WithBuffer(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=dtype))
        self.register_buffer("running_mean", torch.ones(4))


def test_swapping_averages_by_param_data_moves_the_weights_away(make_grid, train):
    """Item 17. Whoever holds the storage (a fused optimizer, a bucket of gradients, a CUDA graph)
    is left with dead memory. Buffers are not averaged, and half precision loses the updates."""
    model = WithBuffer()
    held = model.weight.data  # a view that somebody else keeps
    theirs = chapter.EMAModel(model, 0.9999)
    theirs.apply_shadow(model)
    theirs.restore(model)
    model.weight.data.fill_(5.0)

    assert not torch.equal(held, model.weight)
    assert "running_mean" not in theirs.shadow

    trained, ema = averaged(train())
    pointers = [p.data_ptr() for p in trained.parameters()]
    evaluation = make_grid(seed=0).evaluate(trained, ema, FP32)

    assert evaluation.loss_ema != evaluation.loss_raw
    assert [p.data_ptr() for p in trained.parameters()] == pointers
    assert "running_mean" in Ema(model, lambda step: 0.9999).state_dict()

    half = WithBuffer(torch.float16)
    shadow, average = chapter.EMAModel(half, 0.9999), Ema(half, lambda step: 0.9999)
    half.weight.data.zero_()
    for step in range(1, 1001):
        shadow.update(half)
        average.update(step)

    assert shadow.shadow["weight"][0] == 1  # as if nothing had happened
    assert average.state_dict()["weight"][0] == pytest.approx(0.9999**1000, rel=1e-4)


def test_random_timesteps_make_the_evaluation_a_lottery(
    make_grid, train, train_as_the_chapter, held_out
):
    """Item 18. The chapter's loss of one and the same network moves by percents from call to call,
    and so would a ratio of two such losses. On one grid for both, the ratio hardly depends on
    which grid it is; and the same grid gives the same number."""
    rows = torch.cat([held_out, held_out])[:594]
    trainer = copy.deepcopy(train_as_the_chapter())
    trainer.ema = chapter.EMAModel(trainer.model, 0.9999)  # whose averages are the trained weights
    torch.manual_seed(0)
    theirs = np.array([trainer.evaluate(rows)[0] for _ in range(30)])
    model, ema = averaged(train())
    kappas = [make_grid(seed=seed).evaluate(model, ema, FP32).kappa for seed in range(10)]

    assert theirs.std() / theirs.mean() > 0.025
    assert make_grid(seed=0).evaluate(model, ema, FP32).kappa == kappas[0]
    unpaired = theirs[::2] / theirs[1::2]
    assert np.std(kappas) < unpaired.std() / 5


def test_example_of_the_chapter_cannot_run(train, digits, held_out, alphas_cumprod):
    """Item 24. Its placeholder model takes no timestep, a DataLoader's batch is a list, and the
    loss "per timestep" of an evaluation is that of one noised example or none."""
    config = chapter.StableTrainingConfig()
    flat = digits.flatten(1)
    with pytest.raises(TypeError, match="positional argument"):
        chapter.StableDiffusionTrainer(
            chapter.PlaceholderModel(64), alphas_cumprod, config
        ).train_step(flat[:8])
    batch = next(iter(DataLoader(TensorDataset(digits), batch_size=8)))
    mlp = MODELS["mlp"]((1, 8, 8))
    trainer = chapter.StableDiffusionTrainer(mlp, alphas_cumprod, config)
    with pytest.raises(TypeError):
        trainer.train_step(batch)
    _, by_timestep = trainer.evaluate(held_out)

    assert len(by_timestep) < 300  # of 1,000; most of one example
    for name, make in MODELS.items():
        prediction = make((1, 8, 8))(digits[:8], torch.arange(8))
        assert prediction.shape == digits[:8].shape, name
    assert len(train().evaluation.bin_loss_raw) == 10
    assert np.isfinite(train().evaluation.bin_loss_raw).all()
