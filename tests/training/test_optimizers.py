from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import nn

from stabsearch.spec import TORCH_OPTIMIZERS, TrainerSpec
from stabsearch.training.optimizers import OPTIMIZERS, make_optimizer

ADAM = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-3}


def parameters():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2))]


def train(optimizer, trained, num_steps=5):
    """A few steps on fixed gradients; the weights after each."""
    generator = torch.Generator().manual_seed(1)
    path = []
    for _ in range(num_steps):
        for parameter in trained:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        path.append([p.detach().clone() for p in trained])
    return path


def path_of(spec):
    trained = parameters()
    return train(make_optimizer(spec, trained), trained)


def path_of_torch(make):
    trained = parameters()
    return train(make(trained), trained)


def largest_difference(first, second):
    return max(
        (a - b).abs().max().item()
        for step_a, step_b in zip(first, second, strict=True)
        for a, b in zip(step_a, step_b, strict=True)
    )


def slow_adam(*, is_decoupled, weight_decay, lr=0.01, beta1=0.8, beta2=0.95, epsilon=1e-3):
    trained = parameters()
    generator = torch.Generator().manual_seed(1)
    first = [torch.zeros_like(p) for p in trained]
    second = [torch.zeros_like(p) for p in trained]
    path = []
    for step in range(1, 6):
        for i, parameter in enumerate(trained):
            weight = parameter.detach()
            gradient = torch.randn(parameter.shape, generator=generator)
            if is_decoupled:
                weight -= lr * weight_decay * weight
            else:
                gradient += weight_decay * weight
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient**2
            root = (second[i] / (1 - beta2**step)).sqrt()
            weight -= lr * first[i] / (1 - beta1**step) / (root + epsilon)
        path.append([p.detach().clone() for p in trained])
    return path


def test_every_optimizer_of_the_spec_is_there():
    annotation = TrainerSpec.model_fields["optimizer"].annotation

    assert set(OPTIMIZERS) == set(get_args(annotation))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize(("name", "is_decoupled"), [("adamw", True), ("adam", False)])
def test_adams_agree_with_their_formulas(name, is_decoupled, weight_decay):
    """Decoupled decay shrinks the weights; adam's is an L2 penalty that enters the moments."""
    spec = TrainerSpec(optimizer=name, learning_rate=0.01, weight_decay=weight_decay, **ADAM)
    expected = slow_adam(is_decoupled=is_decoupled, weight_decay=weight_decay)

    assert largest_difference(path_of(spec), expected) < 1e-6


def test_decay_tells_adam_and_adamw_apart():
    paths = [
        path_of(TrainerSpec(optimizer=name, weight_decay=0.5, **ADAM))
        for name in ("adam", "adamw")
    ]

    assert largest_difference(*paths) > 1e-4


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_the_steps_of_torch(momentum, weight_decay):
    """Its momentum starts from zeros that are there before the first step."""
    spec = TrainerSpec(
        optimizer="sgd", learning_rate=0.1, momentum=momentum, weight_decay=weight_decay
    )
    expected = path_of_torch(
        lambda trained: torch.optim.SGD(
            trained, lr=0.1, momentum=momentum, weight_decay=weight_decay, fused=True
        )
    )

    assert largest_difference(path_of(spec), expected) == 0.0


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_a_class_of_torch_takes_its_own_steps(name):
    spec = TrainerSpec(optimizer=name, learning_rate=0.02)
    expected = path_of_torch(
        lambda trained: getattr(torch.optim, name)(
            trained, lr=0.02, **({} if name == "Rprop" else {"weight_decay": 0.0})
        )
    )

    assert largest_difference(path_of(spec), expected) == 0.0


@pytest.mark.parametrize(
    ("name", "options", "arguments"),
    [
        ("RMSprop", {"alpha": 0.9, "centered": True}, {"alpha": 0.9, "centered": True}),
        ("NAdam", {"momentum_decay": 0.1}, {"momentum_decay": 0.1, "betas": (0.8, 0.95)}),
        ("Adadelta", {"rho": 0.5, "eps": 1e-2}, {"rho": 0.5, "eps": 1e-2}),
        ("Adagrad", {"lr_decay": 1}, {"lr_decay": 1}),
    ],
)
def test_options_decay_and_betas_reach_a_class_of_torch(name, options, arguments):
    spec = TrainerSpec(
        optimizer=name, learning_rate=0.02, weight_decay=0.1, optimizer_options=options, **ADAM
    )
    expected = path_of_torch(
        lambda trained: getattr(torch.optim, name)(trained, lr=0.02, weight_decay=0.1, **arguments)
    )

    assert largest_difference(path_of(spec), expected) == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alfa": 0.9}, ["'alfa'", "RMSprop", "alpha, centered, eps, momentum"]),
        ({"lr": 0.1}, ["'lr'", "fields of their own"]),
        ({"fused": True}, ["'fused'", "does not take"]),
        ({"alpha": "high"}, ["optimizer_options.alpha is 'high'", "a number"]),
        ({"alpha": True}, ["optimizer_options.alpha is True", "a number"]),
        ({"centered": 1}, ["optimizer_options.centered is 1", "true or false"]),
        ({"momentum": None}, ["optimizer_options.momentum is None", "a number"]),
        ({"alpha": -1.0}, ["RMSprop", "Invalid alpha value: -1.0"]),
    ],
)
def test_a_wrong_option_is_refused_with_the_right_ones(options, words):
    spec = TrainerSpec(optimizer="RMSprop", optimizer_options=options)

    with pytest.raises(ValueError, match="optimizer_options") as error:
        make_optimizer(spec, parameters())
    assert all(word in str(error.value) for word in words)


def test_weight_decay_is_not_dropped_in_silence():
    spec = TrainerSpec(optimizer="Rprop", weight_decay=0.1)

    with pytest.raises(ValueError, match=r"weight_decay is 0\.1, but Rprop has no weight decay"):
        make_optimizer(spec, parameters())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_trains(name):
    """Down a bowl; the default learning rates of torch differ by a factor of 1,000."""
    learning_rate = {"Adadelta": 1.0, "sgd": 0.01}.get(name, 0.05)
    trained = parameters()
    optimizer = make_optimizer(TrainerSpec(optimizer=name, learning_rate=learning_rate), trained)
    losses = []
    for _ in range(100):
        loss = sum(p.square().sum() for p in trained)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.9 * losses[0]
    assert math.isfinite(losses[-1])
