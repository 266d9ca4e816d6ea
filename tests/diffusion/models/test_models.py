"""What holds for every built-in denoiser, whatever its options."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from stabsearch.diffusion.datasets import digits
from stabsearch.diffusion.models import MODELS
from stabsearch.diffusion.models.embeddings import TIME_EMBEDDINGS

SMALL = {
    "mlp": {"width": 8, "num_blocks": 2},
    "unet": {"width": 4, "num_blocks": 1},
    "dit": {"width": 8, "num_blocks": 1, "num_heads": 2},
}
OWN_SWITCHES = {"mlp": ["layer_norm"], "unet": ["attention"], "dit": []}

COMBINATIONS = [
    (
        name,
        {
            "time_embedding": time_embedding,
            "conditioning": conditioning,
            "residual": residual,
            **dict(zip(OWN_SWITCHES[name], switches, strict=True)),
        },
    )
    for name in MODELS
    for time_embedding, conditioning, residual, *switches in itertools.product(
        TIME_EMBEDDINGS,
        ("add", "film"),
        (True, False),
        *([(True, False)] * len(OWN_SWITCHES[name])),
    )
]
every_combination = pytest.mark.parametrize(
    ("name", "options"),
    COMBINATIONS,
    ids=["-".join([name, *map(str, options.values())]) for name, options in COMBINATIONS],
)
every_model = pytest.mark.parametrize("name", MODELS)


def awake(name, **options):
    """A small model some way from its start, where much of it is zero."""
    torch.manual_seed(0)
    model = MODELS[name]((1, 8, 8), **{**SMALL[name], **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def batch(size=3):
    return torch.randn(size, 1, 8, 8), torch.randint(1000, (size,))


@every_combination
def test_prediction_has_the_shape_of_the_example_and_every_parameter_learns(name, options):
    model = awake(name, **options)
    x_t, timesteps = batch()
    prediction = model(x_t, timesteps)
    prediction.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]

    assert prediction.shape == x_t.shape
    assert idle == (["embed_time.1.weight"] if options["time_embedding"] == "none" else [])


@every_combination
def test_prediction_depends_on_the_timestep_unless_it_is_hidden(name, options):
    model = awake(name, **options)
    x_t, _ = batch()
    one, other = (model(x_t, torch.full((3,), t)) for t in (10, 900))

    if options["time_embedding"] == "none":
        assert torch.equal(one, other)
    else:
        assert (one - other).abs().max() > 1e-3


@every_combination
def test_examples_do_not_see_each_other(name, options):
    model = awake(name, **options)
    x_t, timesteps = batch()
    alone = torch.cat([model(x_t[i : i + 1], timesteps[i : i + 1]) for i in range(3)])

    assert torch.allclose(model(x_t, timesteps), alone, atol=1e-4)


@every_combination
def test_parameters_live_where_their_per_sample_gradients_can_be_taken(name, options):
    model = awake(name, **options)
    calls, first_sizes = [], set()

    def note(module, inputs, output):
        calls.append(module)
        first_sizes.update((len(inputs[0]), len(output)))

    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            assert type(module) in {nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm}
            module.register_forward_hook(note)
    model(*batch(size=3))
    called = [parameter for module in calls for parameter in module.parameters()]

    assert first_sizes == {3}  # the batch comes first
    assert len(set(calls)) == len(calls)  # no module is used twice
    assert set(called) == set(model.parameters())  # and none goes unused


@every_model
@pytest.mark.parametrize("conditioning", ["add", "film"])
def test_bf16_autocast_is_close_to_fp32(name, conditioning):
    model = awake(name, conditioning=conditioning)
    x_t, timesteps = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x_t, timesteps).float()
    exact = model(x_t, timesteps)

    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


@every_model
@pytest.mark.parametrize("conditioning", ["add", "film"])
def test_vmap_of_grad_adds_up_to_the_gradient_of_the_batch(name, conditioning):
    model = awake(name, conditioning=conditioning)
    x_t, timesteps = batch()
    parameters = dict(model.named_parameters())

    def sample_loss(parameters, x_t, timestep):
        prediction = functional_call(model, parameters, (x_t[None], timestep[None]))
        return prediction.square().sum()

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no rule for vmap
        gradients = vmap(grad(sample_loss), (None, 0, 0))(parameters, x_t, timesteps)
    model(x_t, timesteps).square().sum().backward()

    for key, parameter in parameters.items():
        torch.testing.assert_close(gradients[key].sum(0), parameter.grad, rtol=1e-3, atol=1e-3)


@every_model
def test_a_model_is_one_graph(name):
    model = awake(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    inputs = batch()

    assert torch.allclose(compiled(*inputs), model(*inputs), atol=1e-5)


@every_model
@pytest.mark.parametrize("time_embedding", TIME_EMBEDDINGS)
def test_the_seed_decides_the_model(name, time_embedding):
    def state(seed):
        torch.manual_seed(seed)
        model = MODELS[name]((1, 8, 8), **SMALL[name], time_embedding=time_embedding)
        return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])

    assert torch.equal(state(3), state(3))
    assert not torch.equal(state(3), state(4))


def test_numbers_of_parameters_are_those_that_the_docstring_names():
    numbers = {
        name: sum(p.numel() for p in make((1, 8, 8)).parameters()) for name, make in MODELS.items()
    }

    assert numbers == {"mlp": 33_280, "unet": 277_313, "dit": 315_972}


@pytest.mark.parametrize(
    ("name", "num_steps", "learning_rate"),
    [("mlp", 300, 3e-3), ("unet", 50, 3e-3), ("dit", 60, 3e-3)],
)
def test_the_default_model_learns_to_see_noise_in_digits(name, num_steps, learning_rate):
    """Noise has mean 0 and variance 1: no constant prediction has a loss below 1."""
    torch.manual_seed(0)
    images = torch.from_numpy(digits())
    signal = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0).view(-1, 1, 1, 1)
    model = MODELS[name]((1, 8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(num_steps):
        x0 = images[torch.randint(len(images), (32,))]
        timesteps, noise = torch.randint(1000, (32,)), torch.randn_like(x0)
        share = signal[timesteps]
        prediction = model(share.sqrt() * x0 + (1 - share).sqrt() * noise, timesteps)
        loss = (prediction - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert sum(losses[-20:]) / 20 < 0.5
