"""A study's model is tried before there is a Ray: what is wrong with it is one sentence."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from stabsearch.diffusion.models import MODELS
from stabsearch.diffusion.prepared_data import PreparedData, prepare_data
from stabsearch.errors import SpecError
from stabsearch.spec import DataSpec, StudySpec
from stabsearch.training import model_check
from stabsearch.training.model_check import check_study_model, searched_models
from stabsearch.training.trainer import Trainer
from tests.search.models import WithBatchNorm

built: list[dict[str, object]] = []
"""Options of every Denoiser that was made."""


@pytest.fixture(autouse=True)
def nothing_built():
    built.clear()


class Denoiser(nn.Module):
    def __init__(self, sample_shape, *, channels=4, scale=1.0):
        super().__init__()
        built.append({"channels": channels, "scale": scale})
        size = math.prod(sample_shape)
        self.layers = nn.Sequential(nn.Linear(size, channels), nn.Linear(channels, size))

    def forward(self, x_t, timesteps):
        return self.layers(x_t.flatten(1)).view_as(x_t)


class TakesNoShape(nn.Module):
    def __init__(self):
        super().__init__()


class NeedsAField(Denoiser):
    def __init__(self, sample_shape, width):
        super().__init__(sample_shape)


class RaisesWhenBuilt(Denoiser):
    def __init__(self, sample_shape, **options):
        raise LookupError("no such\nweights")


class EndsTheProgram(Denoiser):
    def forward(self, x_t, timesteps):
        sys.exit(3)


class TakesNoTimesteps(Denoiser):
    def forward(self, x_t):
        return x_t


class KnowsFewTimesteps(Denoiser):
    def __init__(self, sample_shape):
        super().__init__(sample_shape)
        self.embed = nn.Embedding(100, 1)

    def forward(self, x_t, timesteps):
        return super().forward(x_t, timesteps) + self.embed(timesteps).view(-1, 1, 1, 1)


class ReturnsADict(Denoiser):
    def forward(self, x_t, timesteps):
        return {"sample": x_t}


class ReturnsFlat(Denoiser):
    def forward(self, x_t, timesteps):
        return super().forward(x_t, timesteps).flatten(1)


class HasNoParameters(nn.Module):
    def __init__(self, sample_shape):
        super().__init__()

    def forward(self, x_t, timesteps):
        return x_t


class NeedsAGpu(Denoiser):
    def forward(self, x_t, timesteps):
        raise AssertionError("Torch not compiled with CUDA enabled")


class IsTooLarge(Denoiser):
    def __init__(self, sample_shape):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")


class WorksInPlace(Denoiser):
    def forward(self, x_t, timesteps):
        return super().forward(x_t.mul_(0.0), timesteps)


class DrawsFromEverywhere(Denoiser):
    def forward(self, x_t, timesteps):
        return (
            super().forward(x_t, timesteps) * random.random() * np.random.rand() * torch.rand(())
        )


def no_module(sample_shape):
    return 5


def study(model, *, space=None, **changes) -> StudySpec:
    """Of a model of this file, or of a built-in."""
    if model.get("name", "mlp") not in MODELS:
        model = model | {"name": f"{__name__}:{model['name']}"}
    fields = {
        "name": "tried",
        "space": {"learning_rate": {"log_uniform": [1e-4, 1e-1]}} | (space or {}),
        "trainer": {"model": model, "max_train_steps": 100, "eval_samples": 20},
    }
    return StudySpec.model_validate(fields | changes)


@pytest.fixture(scope="module")
def digits() -> PreparedData:
    return prepare_data(DataSpec())


def complaint(spec: StudySpec, data: PreparedData) -> str:
    with pytest.raises(SpecError) as told:
        check_study_model(spec, data)
    return str(told.value)


CASES = {
    "no sample_shape": ("TakesNoShape", "takes no sample_shape, and is called as TakesNoShape([1"),
    "field missing": ("NeedsAField", "needs a field width. Add width: ... to model"),
    "raises when built": ("RaisesWhenBuilt", "raised LookupError: no such weights (test_model_"),
    "no module": ("no_module", "returned a value of type int, and a model is a torch.nn.Module"),
    "no parameters": ("HasNoParameters", "has no parameter to train. Keep its layers as"),
    "no timesteps": ("TakesNoTimesteps", "forward(x_t) is called as forward(x_t, timesteps). "),
    "few timesteps": ("KnowsFewTimesteps", "raised IndexError: index out of range in self (test"),
    "exits": ("EndsTheProgram", "forward(x_t, timesteps) raised SystemExit: 3 (test_model_check"),
    "a dict": ("ReturnsADict", "forward returned a value of type dict, and a denoiser returns"),
    "flat": ("ReturnsFlat", "forward returned shape [2, 64] for x_t of shape [2, 1, 8, 8]"),
}


@pytest.mark.parametrize(("name", "said"), CASES.values(), ids=CASES)
def test_a_wrong_model_is_one_line_with_the_rule_and_the_remedy(digits, name, said):
    message = complaint(study({"name": name}), digits)

    assert message.startswith(f"trainer.model: {__name__}:{name} — ")
    assert said in message
    assert "\n" not in message
    assert message.endswith(".")


def test_an_unknown_field_is_told_where_it_is_written(digits):
    model = {"name": "Denoiser"}
    told = complaint(study(model | {"n_channels": 3}), digits)
    searched = complaint(study(model, space={"model.n_channels": {"choice": [3, 4]}}), digits)

    rule = f"unknown field of {__name__}:Denoiser. Did you mean channels?"
    assert told == f"trainer.model.n_channels: {rule}"
    assert searched == f"space.model.n_channels: {rule}"


def test_a_built_in_that_does_not_take_the_data_says_so_in_its_own_words():
    points = prepare_data(DataSpec.model_validate({"name": "mixture", "num_examples": 100}))

    message = complaint(study({"name": "unet"}), points)
    assert message.startswith("trainer.model.name: unet ")
    assert "[2]" in message


@pytest.mark.parametrize(
    "domain", [{"choice": [4, 8, -4]}, {"int": [-4, 8]}], ids=["choice", "range"]
)
def test_a_searched_value_that_cannot_be_built_is_named(digits, domain):
    message = complaint(study({"name": "Denoiser"}, space={"model.channels": domain}), digits)

    assert "(with model.channels: -4)" in message


def test_of_a_searched_built_in_the_field_is_named_in_the_space(digits):
    space = {"model.num_resolutions": {"int": [1, 6]}}

    message = complaint(study({"name": "unet"}, space=space), digits)
    assert message.startswith("space.model.num_resolutions: 6 needs a height and width")
    assert message.endswith("(with model.num_resolutions: 6).")


def test_every_value_is_tried_before_their_combinations_and_only_a_few(digits):
    space = {
        "model.channels": {"choice": [2, 3, 4]},
        "model.scale": {"uniform": [0.5, 2.0]},
    }
    spec = study({"name": "Denoiser"}, space=space)

    assert [(p["model.channels"], p["model.scale"]) for p, _ in searched_models(spec)] == [
        *((2, 0.5), (3, 0.5), (4, 0.5), (2, 2.0)),
        *((3, 2.0), (4, 2.0)),
    ]
    many = study({"name": "Denoiser"}, space={"model.channels": {"choice": list(range(1, 40))}})
    check_study_model(many, digits)
    assert len(built) == model_check.MAX_MODELS


def test_a_model_that_is_slow_to_build_is_built_once(digits, monkeypatch):
    monkeypatch.setattr(model_check, "MAX_SECONDS", 0.0)
    spec = study({"name": "Denoiser"}, space={"model.channels": {"choice": [2, 3, 4]}})
    check_study_model(spec, digits)

    assert len(built) == 1


def test_combinations_that_no_trial_will_have_are_left_out():
    space = {"model.name": {"choice": ["mlp", "unet"]}, "model.width": {"choice": [8, 12]}}

    models = [trainer.model.name for _, trainer in searched_models(study({}, space=space))]
    assert models == ["mlp", "unet", "mlp", "unet"]


def test_what_needs_a_gpu_is_left_to_the_trials_of_a_study_that_has_one(digits):
    model = {"name": "NeedsAGpu"}
    check_study_model(study(model, resources={"gpus": 1}), digits)

    assert "CUDA" in complaint(study(model), digits)


def test_a_field_that_is_unknown_is_not_left_to_a_gpu(digits):
    spec = study({"name": "Denoiser", "cpu_channels": 3}, resources={"gpus": 1})

    assert "unknown field" in complaint(spec, digits)


def test_what_is_too_large_for_the_driver_is_left_to_the_trials(digits):
    check_study_model(study({"name": "IsTooLarge"}), digits)


def test_examples_and_random_numbers_stay_as_they_are(digits):
    def draws(check):
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        check()
        return random.random(), np.random.rand(), torch.rand(()).item()

    before = digits.dataset.train.copy()
    undisturbed = draws(lambda: None)
    spec = study({"name": "DrawsFromEverywhere"})

    assert draws(lambda: check_study_model(spec, digits)) == undisturbed
    check_study_model(study({"name": "WorksInPlace"}), digits)
    assert np.array_equal(digits.dataset.train, before)


def test_a_model_that_learns_statistics_of_the_batch_is_a_model(digits):
    check_study_model(study({"name": WithBatchNorm.__name__}), digits)


def test_a_trial_after_the_check_is_the_same_trial(digits):
    spec = study({"name": "unet", "width": 4})

    def losses():
        return Trainer(spec.trainer_for({"learning_rate": 1e-3}), 0, digits).train_window().loss

    alone = losses()
    check_study_model(spec, digits)
    assert losses() == alone
