"""Small real trainings on digits, each done once for all tests of the folder."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from stabsearch.diffusion.noise_schedule import make_noise_schedule
from stabsearch.diffusion.prepared_data import PreparedData, prepare_data
from stabsearch.records import Evaluation, ReferenceLoss, Report
from stabsearch.spec import DataSpec, ModelSpec, TrainerSpec
from stabsearch.training.trainer import Trainer, build_model
from tests.chapter import chapter

STEPS = 400


@dataclass(frozen=True)
class Run:
    """A finished training of our trainer."""

    reports: list[Report]
    reference: ReferenceLoss
    trainer: Trainer

    @property
    def evaluation(self) -> Evaluation:
        return self.reports[-1].evaluation

    @property
    def model(self) -> nn.Module:
        """With the trained weights, to be used outside the trainer."""
        model = build_model(self.trainer.spec, (1, 8, 8))
        model.load_state_dict(self.trainer.state_dict()["model"])
        return model


@pytest.fixture(scope="session")
def data() -> PreparedData:
    return prepare_data(DataSpec())


@pytest.fixture(scope="session")
def digits(data) -> Tensor:
    return torch.from_numpy(data.dataset.train)


@pytest.fixture(scope="session")
def held_out(data) -> Tensor:
    return torch.from_numpy(data.dataset.held_out)


@pytest.fixture(scope="session")
def alphas_cumprod() -> Tensor:
    """Of the linear schedule."""
    return torch.tensor(make_noise_schedule().alphas_cumprod, dtype=torch.float32)


@pytest.fixture(scope="session")
def train(data):
    """Trains with our trainer: an epsilon MLP with AdamW, unless fields say otherwise."""

    @functools.cache
    def cached(changes: str) -> Run:
        spec = TrainerSpec.model_validate_json(changes)
        trainer = Trainer(spec, 0, data)
        reports = []
        while not trainer.is_finished:
            reports.append(trainer.train_window())
        return Run(reports, trainer.facts.reference, trainer)

    def run(*, steps: int = STEPS, **changes) -> Run:
        fields = {
            "learning_rate": 3e-3,
            "max_train_steps": steps,
            "eval_every": 100,
            "grad_norm_every": 0,
            "device": "cpu",
        }
        return cached(TrainerSpec(**fields | changes).model_dump_json())

    return run


@pytest.fixture(scope="session")
def train_as_the_chapter(digits, alphas_cumprod):
    """Trains the same MLP on the same data with the chapter's trainer."""

    @functools.cache
    def run(*, steps: int = STEPS, **changes) -> chapter.StableDiffusionTrainer:
        torch.manual_seed(0)
        model = build_model(TrainerSpec(model=ModelSpec(name="mlp")), (1, 8, 8))
        config = chapter.StableTrainingConfig(learning_rate=3e-3, warmup_steps=20)
        trainer = chapter.StableDiffusionTrainer(model, alphas_cumprod, replace(config, **changes))
        trainer.train(digits, steps)
        return trainer

    return run
