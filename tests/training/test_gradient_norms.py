from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from stabsearch.diffusion.models import MODELS
from stabsearch.training.gradient_norms import (
    GhostNorms,
    convolution,
    probe_squared_norms,
)

# Every batch size here differs from the other sizes of its test, so that nothing fits by chance.
BATCH_SIZE = 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def losses_of(output):
    """One loss per sample that is no sum of equal terms."""
    weights = torch.linspace(0.5, 2.0, output[0].numel())
    return ((output.float().flatten(1) * weights).sin() + output.float().flatten(1) ** 2).sum(1)


def slow_squared_norms(model, losses):
    """One backward per sample, then the sum of squares over all parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    squares = []
    for loss in losses:
        gradients = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        squares.append(sum(g.double().square().sum() for g in gradients))
    return torch.stack(squares).float()


def ghost_squared_norms(model, *inputs):
    ghost = GhostNorms(model)
    assert ghost.unknown == ()
    with ghost.capture():
        losses_of(model(*inputs)).mean().backward()
    return ghost.squared_norms(len(inputs[0]))


def assert_as_slow(model, *inputs):
    actual = ghost_squared_norms(model, *inputs)
    expected = slow_squared_norms(model, losses_of(model(*inputs)))

    assert expected.max() > 0
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


def floats(*shape):
    return torch.randn(BATCH_SIZE, *shape)


def indices(*shape):
    return torch.randint(0, 4, (BATCH_SIZE, *shape))  # few, so that positions share rows


LINEARS = {
    "vectors": (lambda: nn.Linear(3, 4), (3,)),
    "vectors, no bias": (lambda: nn.Linear(3, 4, bias=False), (3,)),
    "few tokens": (lambda: nn.Linear(12, 16), (2, 12)),
    "many tokens": (lambda: nn.Linear(3, 4), (20, 3)),
    "many tokens, no bias": (lambda: nn.Linear(3, 4, bias=False), (20, 3)),
    "several middle dimensions": (lambda: nn.Linear(3, 4), (2, 3, 2, 3)),
}
CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "no bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), (3, 6, 7)),
    "many channels": (lambda: nn.Conv2d(24, 32, 3, padding=1), (24, 4, 4)),
    "many channels, stride": (lambda: nn.Conv2d(24, 32, 3, stride=2, padding=1), (24, 4, 6)),
    "stride": (lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 8, 7)),
    "stride that skips pixels": (lambda: nn.Conv2d(3, 4, 2, stride=3), (3, 8, 7)),
    "two strides": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 3), padding=1), (3, 8, 7)),
    "padding": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 7)),
    "two paddings": (lambda: nn.Conv2d(3, 4, (3, 5), padding=(0, 2)), (3, 6, 7)),
    "more padding than kernel": (lambda: nn.Conv2d(3, 4, 2, padding=3), (3, 4, 5)),
    "same": (lambda: nn.Conv2d(3, 4, (3, 5), padding="same"), (3, 6, 7)),
    "same, dilation": (lambda: nn.Conv2d(3, 4, 2, padding="same", dilation=2), (3, 6, 7)),
    "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (3, 6, 7)),
    "dilation": (lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2), (3, 6, 7)),
    "dilation, stride": (
        lambda: nn.Conv2d(3, 4, 3, padding=1, dilation=(1, 2), stride=2),
        (3, 6, 7),
    ),
    "groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 6, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 7)),
    "few outputs": (lambda: nn.Conv2d(6, 2, 3, padding=1), (6, 6, 7)),
    "few outputs, groups": (lambda: nn.Conv2d(8, 2, 3, dilation=2, groups=2), (8, 6, 7)),
    "few outputs, stride": (lambda: nn.Conv2d(6, 2, 3, stride=2), (6, 6, 7)),
    "few outputs, padding": (lambda: nn.Conv2d(6, 2, 2, padding=3), (6, 4, 4)),
    "kernel as large as the map": (lambda: nn.Conv2d(3, 4, (6, 7)), (3, 6, 7)),
    "pointwise": (lambda: nn.Conv2d(3, 4, 1), (3, 6, 7)),
    "pointwise, stride": (lambda: nn.Conv2d(3, 4, 1, stride=2), (3, 6, 7)),
    "pointwise, padding": (lambda: nn.Conv2d(3, 4, 1, padding=1), (3, 6, 7)),
    "pointwise, groups": (lambda: nn.Conv2d(4, 6, 1, groups=2), (4, 6, 7)),
    "one axis": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), (3, 9)),
    "one axis, few outputs": (lambda: nn.Conv1d(6, 2, 3, padding=1), (6, 9)),
    "one axis, many channels": (lambda: nn.Conv1d(24, 32, 3), (24, 6)),
}
NORMS = {
    "groups": (lambda: nn.GroupNorm(2, 4), (4, 6, 7)),
    "groups of vectors": (lambda: nn.GroupNorm(2, 8), (8,)),
    "one group": (lambda: nn.GroupNorm(1, 4), (4, 6)),
    "groups, eps": (lambda: nn.GroupNorm(2, 4, eps=0.3), (4, 6, 7)),
    "layer of vectors": (lambda: nn.LayerNorm(6), (6,)),
    "layer of tokens": (lambda: nn.LayerNorm(6), (2, 4, 6)),
    "layer over two dimensions": (lambda: nn.LayerNorm((4, 6)), (2, 4, 6)),
    "layer, eps": (lambda: nn.LayerNorm(6, eps=0.3), (4, 6)),
    "layer without bias": (lambda: nn.LayerNorm(6, bias=False), (4, 6)),
}


@pytest.mark.parametrize(("make_layer", "shape"), LINEARS.values(), ids=LINEARS)
def test_linear_is_as_one_backward_per_sample(make_layer, shape):
    assert_as_slow(make_layer(), floats(*shape))


@pytest.mark.parametrize(("make_layer", "shape"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_is_as_one_backward_per_sample(make_layer, shape):
    assert_as_slow(make_layer(), floats(*shape))


@pytest.mark.parametrize(("make_layer", "shape"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_both_forms_of_a_convolution_give_the_weights_part(make_layer, shape):
    layer, x = make_layer(), floats(*shape)
    layer.bias = None
    output = layer(x)
    (gradient,) = torch.autograd.grad(losses_of(output).sum(), output, retain_graph=True)
    expected = slow_squared_norms(layer, losses_of(output))

    torch.testing.assert_close(
        convolution.gram_form(layer, x, gradient), expected, rtol=1e-5, atol=0
    )
    direct = convolution.weight_gradients(layer, x, gradient).square().sum(1)
    torch.testing.assert_close(direct, expected, rtol=1e-5, atol=0)


def test_the_cases_take_both_forms_of_a_convolution():
    choices = set()
    for make_layer, shape in CONVOLUTIONS.values():
        layer, x = make_layer(), floats(*shape)
        choices.add(convolution.is_gram_form_cheaper(layer, x, layer(x)))

    assert choices == {False, True}


@pytest.mark.parametrize(("make_layer", "shape"), NORMS.values(), ids=NORMS)
def test_norm_is_as_one_backward_per_sample(make_layer, shape):
    layer = make_layer()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    assert_as_slow(layer, floats(*shape))


@pytest.mark.parametrize("shape", [(), (6,), (3, 4)], ids=["index", "indices", "grid"])
@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": 1}, {"padding_idx": -4}, {"max_norm": 0.5}], ids=str
)
def test_embedding_is_as_one_backward_per_sample(shape, options):
    layer = nn.Embedding(7, 3, **options)
    assert_as_slow(layer, indices(*shape))


class Repeated(nn.Module):
    """Layers that are called more than once in a forward, on inputs of several shapes."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 6)
        self.linear = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.conv = nn.Conv2d(2, 2, 3, padding=1, stride=1)
        self.narrow = nn.Conv2d(6, 2, 3)
        self.wide = nn.Conv2d(24, 24, 3, padding=1)  # alone it would be measured by its Gram form
        self.pointwise = nn.Conv2d(2, 2, 1)
        self.group_norm = nn.GroupNorm(2, 2)

    def forward(self, x, index, tokens, maps):
        hidden = self.norm(self.linear(self.embedding(index)))
        for _ in range(2):
            hidden = hidden + self.linear(torch.tanh(hidden))
        tokens = self.norm(self.linear(tokens) + self.embedding(index[:, None].expand(-1, 3)))
        x = self.group_norm(self.conv(torch.tanh(self.conv(x))))
        x = self.narrow(torch.cat([x, x.square(), x.sin()], dim=1))
        x = self.group_norm(self.pointwise(self.pointwise(self.conv(x))))
        x = x + self.narrow(nn.functional.pad(torch.cat([x, x.cos(), x.sin()], 1), (1,) * 4))
        maps = self.wide(torch.tanh(self.wide(maps)))
        return torch.cat([hidden, *(y.flatten(1) for y in (tokens, x, maps))], dim=1)


def test_a_layer_that_is_called_several_times_has_the_norm_of_its_gradients_sum():
    assert_as_slow(Repeated(), floats(2, 6, 7), indices(), floats(3, 6), floats(24, 3, 3))


class OneOfEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.tokens = nn.Linear(6, 6)
        self.embedding = nn.Embedding(4, 6)
        self.conv = nn.Conv2d(3, 6, 3)
        self.group_norm = nn.GroupNorm(2, 6)
        self.layer_norm = nn.LayerNorm(6)

    def forward(self, x, index):
        maps = torch.relu(self.group_norm(self.conv(x)))
        tokens = self.layer_norm(self.tokens(maps.flatten(2).transpose(1, 2)))
        return tokens * torch.tanh(self.linear(self.embedding(index)))[:, None]


NAMES = [name for name, _ in OneOfEach().named_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameter_contributes_nothing(name):
    model = OneOfEach()
    model.get_parameter(name).requires_grad_(False)
    assert_as_slow(model, floats(3, 6, 7), indices())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_alone_contributes_its_part(name):
    model = OneOfEach().requires_grad_(False)
    model.get_parameter(name).requires_grad_()
    assert_as_slow(model, floats(3, 6, 7), indices())


def test_activations_may_work_in_place():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.GroupNorm(2, 4), nn.SiLU(inplace=True),
        nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 6, bias=False), nn.ELU(inplace=True),
        nn.Flatten(0, 1), nn.Unflatten(0, (-1, 4)), nn.LayerNorm(6), nn.Hardtanh(inplace=True),
        nn.Flatten(), nn.Linear(96, 6), nn.ELU(inplace=True),
    )  # fmt: skip
    assert_as_slow(model, floats(3, 6, 7))


def test_calls_without_gradient_contribute_nothing():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            with torch.no_grad():
                target = self.second(self.first(x))
            return self.second(self.first(x + target))

    assert_as_slow(Model(), floats(3))


def test_layer_that_the_loss_does_not_reach_contributes_nothing():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.dropped = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x):
            self.dropped(x)
            return self.used(x)

    assert_as_slow(Model(), floats(3))


def test_several_backwards_of_one_forward_add_up_like_the_gradient():
    model, x = OneOfEach(), (floats(3, 6, 7), indices())
    ghost = GhostNorms(model)
    with ghost.capture():
        losses = losses_of(model(*x)) / BATCH_SIZE
        losses[:2].sum().backward(retain_graph=True)
        losses[2:].sum().backward()

    expected = slow_squared_norms(model, losses_of(model(*x)))
    torch.testing.assert_close(ghost.squared_norms(BATCH_SIZE), expected, rtol=1e-5, atol=0)


def test_loss_scale_shows_as_its_square():
    model, x = OneOfEach(), (floats(3, 6, 7), indices())
    ghost = GhostNorms(model)
    with ghost.capture():
        (losses_of(model(*x)).mean() * 1024).backward()

    expected = slow_squared_norms(model, losses_of(model(*x)))
    torch.testing.assert_close(
        ghost.squared_norms(BATCH_SIZE) / 1024**2, expected, rtol=1e-5, atol=0
    )


def test_bf16_autocast_is_measured_in_fp32():
    model, x = OneOfEach(), (floats(3, 6, 7), indices())
    ghost = GhostNorms(model)
    with ghost.capture():
        with torch.autocast("cpu", torch.bfloat16):
            losses = losses_of(model(*x))
        losses.mean().backward()
    actual = ghost.squared_norms(BATCH_SIZE)

    assert actual.dtype == torch.float32
    expected = slow_squared_norms(model, losses_of(model(*x)))
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0)


def test_nonfinite_sample_spoils_its_own_norm_only():
    model, x = OneOfEach(), floats(3, 6, 7)
    x[2, 0, 0, 0] = torch.nan
    norms = ghost_squared_norms(model, x, indices())

    assert norms.isfinite().tolist() == [True, True, False, True, True]


def test_capture_leaves_no_hook_and_the_gradient_as_it_was():
    model, x = OneOfEach(), (floats(3, 6, 7), indices())
    losses_of(model(*x)).mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    ghost_squared_norms(model, *x)

    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


def test_no_hook_is_left_by_a_forward_that_fails():
    model = nn.Linear(3, 4)
    ghost = GhostNorms(model)
    with pytest.raises(RuntimeError), ghost.capture():
        model(floats(7))

    assert not model._forward_hooks


def test_each_step_is_measured_by_itself():
    model = nn.Linear(3, 4)
    ghost = GhostNorms(model)
    first, second = floats(3), floats(3)
    with ghost.capture():
        losses_of(model(first)).mean().backward()
    with ghost.capture():
        losses_of(model(second)).mean().backward()

    expected = slow_squared_norms(model, losses_of(model(second)))
    torch.testing.assert_close(ghost.squared_norms(BATCH_SIZE), expected, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="no backward was recorded"):
        ghost.squared_norms(BATCH_SIZE)


class Scaled(nn.Module):
    """A parameter that belongs to no layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return torch.tanh(self.linear(x)) * self.scale


class OwnLinear(nn.Linear):
    """May do anything in its forward."""


def tied():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    return model


def with_gain():
    layer = nn.Linear(3, 3)
    layer.gain = nn.Parameter(torch.ones(()))
    return nn.Sequential(layer)


UNKNOWN = {
    "layer with one more parameter": (with_gain, ("0 (Linear)",)),
    "parameter of no layer": (Scaled, ("the model itself (Scaled)",)),
    "subclass": (lambda: nn.Sequential(OwnLinear(3, 3)), ("0 (OwnLinear)",)),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
        ("1 (BatchNorm1d has no per-sample gradient)",),
    ),
    "batch norm without parameters": (
        lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False)),
        ("0 (BatchNorm2d has no per-sample gradient)",),
    ),
    "tied weights": (tied, ("1 (Linear shares its weight with 0)",)),
    "attention with weights of its own": (
        lambda: nn.Sequential(nn.MultiheadAttention(4, 2)),
        ("0 (MultiheadAttention)", "0.out_proj (NonDynamicallyQuantizableLinear)"),
    ),
    "circular padding": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")),
        ("0 (Conv2d with padding_mode 'circular')",),
    ),
    "lopsided padding": (
        lambda: nn.Sequential(nn.Conv1d(3, 3, 4, padding="same")),
        ("0 (Conv1d with padding 'same' and a kernel of even size)",),
    ),
    "gradient by frequency": (
        lambda: nn.Sequential(nn.Embedding(4, 3, scale_grad_by_freq=True)),
        ("0 (Embedding with scale_grad_by_freq)",),
    ),
    "parametrised weight": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3, bias=False)),
        ("parametrizations.weight (ParametrizationList)",),
    ),
}


@pytest.mark.parametrize(("make_model", "names"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_layers_are_named(make_model, names):
    ghost = GhostNorms(make_model())

    assert ghost.unknown == names
    with pytest.raises(ValueError, match="ghost norms do not know"), ghost.capture():
        pass


def test_unknown_layers_do_not_matter_when_they_are_frozen():
    model = Scaled()
    model.scale.requires_grad_(False)
    assert_as_slow(model, floats(3))


class Tokenwise(nn.Module):
    """All samples' tokens in one dimension."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x.flatten(0, 1)).view_as(x)


class Broadcast(nn.Module):
    """A learned vector that all samples share, through a layer of its own."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(torch.ones(x.shape[-1]))


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(input=x)


class PastTheForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.other(x) @ self.linear.weight


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Tokenwise(), (2, 3), r"linear \(Linear\) took an input of shape \[10, 3\]"),
        (Broadcast(3), (3,), r"linear \(Linear\) took an input of shape \[3\]"),
        (Broadcast(BATCH_SIZE), (BATCH_SIZE,), r"linear \(Linear\) took an input of shape \[5\]"),
        (ByKeyword(), (3,), r"linear \(Linear\) was called with its input as a keyword"),
        (PastTheForward(), (3,), r"linear \(Linear\) has a gradient that did not come through"),
    ],
    ids=[
        "flattened",
        "broadcast",
        "broadcast of the batch's size",
        "by keyword",
        "past the forward",
    ],
)
def test_calls_that_ghost_norms_cannot_see_through_are_refused(model, shape, message):
    with pytest.raises(ValueError, match=message):
        ghost_squared_norms(model, floats(*shape))


def randomise_zeros(model):
    """Layers that start at zero would stop the gradient of what is below them."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def mean_squares(prediction, target):
    return (prediction - target).square().flatten(1).mean(1)


CHOICES = tuple(
    itertools.product(("sinusoidal", "fourier", "none"), ("add", "film"), (True, False))
)


@pytest.mark.parametrize(("time_embedding", "conditioning", "residual"), CHOICES)
@pytest.mark.parametrize("name", MODELS)
def test_built_in_models_agree_with_the_probe_and_the_loop(
    name, time_embedding, conditioning, residual
):
    model = randomise_zeros(
        MODELS[name](
            (1, 8, 8),
            width=16,
            num_blocks=1,
            time_embedding=time_embedding,
            conditioning=conditioning,
            residual=residual,
        )
    )
    inputs = floats(1, 8, 8), torch.randint(0, 1000, (BATCH_SIZE,))
    target = floats(1, 8, 8)
    ghost = GhostNorms(model)
    assert ghost.unknown == ()
    with ghost.capture():
        losses = mean_squares(model(*inputs), target)
        losses.mean().backward(retain_graph=True)
    actual = ghost.squared_norms(BATCH_SIZE)

    expected = slow_squared_norms(model, losses)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)
    probed = probe_squared_norms(model, inputs, mean_squares, (target,))
    torch.testing.assert_close(probed, expected, rtol=1e-5, atol=0)


def no_extras(prediction):
    return losses_of(prediction)


@pytest.mark.parametrize("chunk_size", [1, 2, BATCH_SIZE, 32])
def test_probe_measures_what_ghost_norms_do_not_know(chunk_size):
    model, x = Scaled(), floats(3)

    torch.testing.assert_close(
        probe_squared_norms(model, (x,), no_extras, (), chunk_size),
        slow_squared_norms(model, losses_of(model(x))),
        rtol=1e-5,
        atol=0,
    )


def test_probe_leaves_out_frozen_parameters():
    model, x = Scaled(), floats(3)
    model.linear.requires_grad_(False)

    torch.testing.assert_close(
        probe_squared_norms(model, (x,), no_extras, ()),
        slow_squared_norms(model, losses_of(model(x))),
        rtol=1e-5,
        atol=0,
    )


def test_probe_drops_out_differently_for_each_sample_and_draws_nothing_from_training():
    model, x = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5)), torch.ones(BATCH_SIZE, 3)
    before = torch.get_rng_state()
    norms = probe_squared_norms(model, (x,), no_extras, ())

    assert len(set(norms.tolist())) == BATCH_SIZE
    assert torch.equal(torch.get_rng_state(), before)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("num_calls", torch.zeros(()))

    def forward(self, x):
        self.num_calls += 1
        return self.linear(x)


def test_probe_leaves_buffers_as_they_were():
    model = Counting()
    probe_squared_norms(model, (floats(3),), no_extras, ())

    assert model.num_calls.item() == 0


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class Remembering(nn.Module):
    """Keeps a running mean of its inputs, as BatchNorm does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("running_mean", torch.zeros(3))

    def forward(self, x):
        self.running_mean += 0.1 * x.mean(0)
        return self.linear(x - self.running_mean)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "cannot take per-sample gradients of Branching: .*control flow"),
        (Remembering(), "cannot take per-sample gradients of Remembering: .*shape"),
        (nn.Linear(4, 4), "cannot take per-sample gradients of Linear: .*shape"),
    ],
    ids=["branch", "running mean", "wrong shape"],
)
def test_model_that_vmap_cannot_transform_is_refused_with_the_reason(model, message):
    with pytest.raises(ValueError, match=message) as error:
        probe_squared_norms(model, (floats(3),), no_extras, ())

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("is_training", "track_running_stats"), [(True, True), (True, False), (False, False)]
)
def test_batch_norm_that_mixes_samples_is_refused(is_training, track_running_stats):
    batch_norm = nn.BatchNorm1d(3, track_running_stats=track_running_stats)
    model = nn.Sequential(nn.Linear(3, 3), batch_norm).train(is_training)

    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\) mixes the samples of a batch"):
        probe_squared_norms(model, (floats(3),), no_extras, ())


def test_batch_norm_can_be_probed_once_it_no_longer_mixes_samples():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval(), floats(3)

    torch.testing.assert_close(
        probe_squared_norms(model, (x,), no_extras, ()),
        slow_squared_norms(model, losses_of(model(x))),
        rtol=1e-5,
        atol=0,
    )
