"""Gradient clipping that says what it did, without a host sync.

A gradient is clipped only where its total norm is finite. NaN and Inf are a state of their own:
they are neither scaled to zero nor repaired, the record shows them, and
stabsearch.training.optimizer_step does not take the step.

    global_norm          the joint norm of all gradients is at most max_grad_norm
    per_parameter_norm   the same for every parameter's gradient on its own
    per_parameter_value  no element is larger than max_grad_value
    agc                  no unit's gradient is large beside its weights
    autoclip             global_norm with a threshold from the run's own history
    none                 nothing is clipped, the norm is still measured
"""

# n = gradients, U = units of all parameters together

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stabsearch.spec import TrainerSpec

AUTOCLIP_HISTORY = 1000
"""Norms that autoclip remembers: enough for a percentile, and its threshold follows the run."""

AGC_SMALLEST_WEIGHT = 1e-3
"""Weight norm below which agc takes this one, so that units that start at zero can move."""


class ClipRecord(NamedTuple):
    """What happened to one step's gradient; 0-d tensors that stay on the device."""

    grad_norm: Tensor
    """Total 2-norm before clipping. NaN or Inf when the gradient is, or when a norm overflows."""
    coef: Tensor
    """How much of the gradient is left. global_norm and autoclip: what it was multiplied by,
    min(1, threshold / norm); the others: its 2-norm after clipping / before. 1 for a gradient
    that is zero or not finite."""
    is_clipped: Tensor
    """Whether clipping changed anything; False for a gradient that is not finite."""


class Clipper(Protocol):
    """Clips the gradients that the parameters hold; a parameter without one is passed over."""

    def clip(self) -> ClipRecord: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def make_clipper(spec: TrainerSpec, parameters: Sequence[nn.Parameter]) -> Clipper:
    """The strategy that ``clipping`` names."""
    return CLIPPERS[spec.clipping](spec, parameters)


class _Stateless:
    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        del state

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]


class Unclipped(_Stateless):
    """Measures and changes nothing."""

    def clip(self) -> ClipRecord:
        total = torch.linalg.vector_norm(_norms(self._gradients(), 2.0))
        return ClipRecord(total, torch.ones_like(total), torch.zeros_like(total, dtype=torch.bool))


class GlobalNorm(_Stateless):
    """Scales all gradients by min(1, max_grad_norm / norm), with any p-norm.

    Unlike ``torch.nn.utils.clip_grad_norm_`` no 1e-6 is added to the norm, so that the
    coefficient is exactly what is reported.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], max_grad_norm: float, norm_type: float
    ) -> None:
        super().__init__(parameters)
        self._max_grad_norm = max_grad_norm
        self._norm_type = norm_type

    def clip(self) -> ClipRecord:
        gradients = self._gradients()
        norms, typed_norms = _two_and_typed_norms(gradients, self._norm_type)
        total = _total(norms, typed_norms)
        norm = (
            total
            if typed_norms is norms
            else torch.linalg.vector_norm(typed_norms, self._norm_type)
        )
        return _scale_all(gradients, total, norm, self._max_grad_norm)


class PerParameterNorm(_Stateless):
    """Scales every gradient by min(1, max_grad_norm / its own norm), with any p-norm."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], max_grad_norm: float, norm_type: float
    ) -> None:
        super().__init__(parameters)
        self._max_grad_norm = max_grad_norm
        self._norm_type = norm_type

    def clip(self) -> ClipRecord:
        gradients = self._gradients()
        norms, typed_norms = _two_and_typed_norms(gradients, self._norm_type)
        total = _total(norms, typed_norms)
        coefs = _coefficients(_zero_unless_finite(typed_norms, total), self._max_grad_norm)
        torch._foreach_mul_(gradients, coefs.unbind())
        return _record_of_parts(total, norms, coefs)


class PerParameterValue(_Stateless):
    """Clamps every element to +-max_grad_value."""

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_value: float) -> None:
        super().__init__(parameters)
        self._max_grad_value = max_grad_value

    def clip(self) -> ClipRecord:
        gradients = self._gradients()
        total = torch.linalg.vector_norm(_norms(gradients, 2.0))
        largest = _zero_unless_finite(_norms(gradients, math.inf).amax(), total)
        # The bound is Inf, and so none, where the total is not finite.
        bound = (self._max_grad_value + 0 * total).nan_to_num(nan=math.inf)
        torch._foreach_clamp_max_(gradients, [bound] * len(gradients))
        torch._foreach_clamp_min_(gradients, [-bound] * len(gradients))
        after = torch.linalg.vector_norm(_norms(gradients, 2.0))
        return ClipRecord(total, _share_left(after, total), largest > self._max_grad_value)


class AdaptiveGradientClipping(_Stateless):
    """AGC (Brock et al. 2021, equation 3): unit by unit, |G_i| <= clipping * max(|W_i|, 1e-3).

    A unit is a row of a weight (dimension 0: an output of Linear and Conv2d, an entry of an
    embedding) or a whole vector (biases, gains of norms). NFNets spare the classifier's last
    layer. Here all parameters are clipped, the last layer too: it is a regression like the
    layers below it, and the parameters do not say which of them is last.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], clipping: float) -> None:
        super().__init__(parameters)
        self._clipping = clipping

    def clip(self) -> ClipRecord:
        parameters = [p for p in self._parameters if p.grad is not None]
        gradients = self._gradients()
        unit_norms = [_unit_norms(gradient) for gradient in gradients]
        norms = torch.cat([norm.flatten() for norm in unit_norms])  # [U]
        weight_norms = torch.cat([_unit_norms(p.detach()).flatten() for p in parameters])
        total = torch.linalg.vector_norm(norms)
        limits = self._clipping * weight_norms.clamp(min=AGC_SMALLEST_WEIGHT)
        coefs = _coefficients(_zero_unless_finite(norms, total), limits)
        of_parameters = torch.split(coefs, [norm.numel() for norm in unit_norms])
        for gradient, coef, norm in zip(gradients, of_parameters, unit_norms, strict=True):
            gradient.mul_(coef.view_as(norm))
        return _record_of_parts(total, norms, coefs)


class AutoClip(_Stateless):
    """Global norm with a percentile of the run's own norms as threshold (Seetharaman et al. 2020).

    The step's own norm is part of the history, so that the first step is never clipped. The
    history holds the last 1,000 norms that were finite.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], percentile: float) -> None:
        super().__init__(parameters)
        device = self._parameters[0].device
        self._quantile = percentile / 100
        self._history = torch.full((AUTOCLIP_HISTORY,), math.nan, device=device)
        self._slots = torch.arange(AUTOCLIP_HISTORY, device=device)
        self._count = torch.zeros((), dtype=torch.long, device=device)

    def clip(self) -> ClipRecord:
        gradients = self._gradients()
        total = torch.linalg.vector_norm(_norms(gradients, 2.0))
        self._remember(total)
        limit = torch.nanquantile(self._history, self._quantile)
        # No norm was finite yet: nothing to clip to. All were 0: 0 / 0 would be NaN.
        limit = limit.nan_to_num(nan=math.inf).clamp(min=torch.finfo(torch.float32).tiny)
        return _scale_all(gradients, total, total, limit)

    def _remember(self, total: Tensor) -> None:
        is_finite = total < math.inf  # False for NaN
        is_written = (self._slots == self._count % AUTOCLIP_HISTORY) & is_finite
        self._history = torch.where(is_written, total, self._history)
        self._count += is_finite

    def state_dict(self) -> dict[str, Tensor]:
        return {"history": self._history.clone(), "count": self._count.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._history.copy_(state["history"])
        self._count.copy_(state["count"])


def _global_norm(spec: TrainerSpec, parameters: Sequence[nn.Parameter]) -> Clipper:
    if spec.max_grad_norm is None:
        return Unclipped(parameters)
    return GlobalNorm(parameters, spec.max_grad_norm, spec.grad_norm_type)


def _per_parameter_norm(spec: TrainerSpec, parameters: Sequence[nn.Parameter]) -> Clipper:
    if spec.max_grad_norm is None:
        return Unclipped(parameters)
    return PerParameterNorm(parameters, spec.max_grad_norm, spec.grad_norm_type)


CLIPPERS: dict[str, Callable[[TrainerSpec, Sequence[nn.Parameter]], Clipper]] = {
    "global_norm": _global_norm,
    "per_parameter_norm": _per_parameter_norm,
    "per_parameter_value": lambda spec, parameters: PerParameterValue(
        parameters, spec.max_grad_value
    ),
    "agc": lambda spec, parameters: AdaptiveGradientClipping(parameters, spec.agc_clipping),
    "autoclip": lambda spec, parameters: AutoClip(parameters, spec.autoclip_percentile),
    "none": lambda spec, parameters: Unclipped(parameters),  # noqa: ARG005
}


def _norms(gradients: list[Tensor], norm_type: float) -> Tensor:
    """The p-norm of every gradient, ``[n]``."""
    if norm_type == math.inf:  # a fourth of what foreach_norm takes for it on a CPU
        return torch.stack(torch._foreach_max(torch._foreach_abs(gradients)))
    # foreach: a third cheaper than torch.nn.utils.get_total_norm, which groups by device first
    return torch.stack(torch._foreach_norm(gradients, norm_type))


def _two_and_typed_norms(gradients: list[Tensor], norm_type: float) -> tuple[Tensor, Tensor]:
    """2-norms and p-norms ``[n]``; one and the same tensor for p = 2."""
    norms = _norms(gradients, 2.0)
    return norms, norms if norm_type == 2 else _norms(gradients, norm_type)


def _total(norms: Tensor, typed_norms: Tensor) -> Tensor:
    """Total 2-norm; NaN where a p-norm overflows that the 2-norm survives, as large p do."""
    total: Tensor = torch.linalg.vector_norm(norms)
    return total if typed_norms is norms else total + 0 * typed_norms.amax()


def _zero_unless_finite(norms: Tensor, total: Tensor) -> Tensor:
    """Norms whose coefficient is 1 where the total is not finite: those gradients are left."""
    return (norms + 0 * total).nan_to_num(nan=0.0)


def _coefficients(norms: Tensor, limit: float | Tensor) -> Tensor:
    """min(1, limit / norm), which is 1 for a norm of 0."""
    return torch.clamp(limit / norms, max=1.0)


def _scale_all(
    gradients: list[Tensor], total: Tensor, norm: Tensor, limit: float | Tensor
) -> ClipRecord:
    # One operation where _zero_unless_finite has three: this is the usual strategy's every step.
    coef = _coefficients(norm.nan_to_num(nan=0.0, posinf=0.0), limit)
    torch._foreach_mul_(gradients, coef)  # the one fused form; clip_grads_with_norm_ adds 1e-6
    return ClipRecord(total, coef, coef < 1)


def _record_of_parts(total: Tensor, norms: Tensor, coefs: Tensor) -> ClipRecord:
    """The record of parts with these 2-norms, each scaled by its own coefficient."""
    after = torch.linalg.vector_norm(norms * coefs)
    return ClipRecord(total, _share_left(after, total), (coefs < 1).any())


def _share_left(after: Tensor, total: Tensor) -> Tensor:
    """after / total; 1 where that is 0 / 0 or not finite."""
    return (after / total).nan_to_num(nan=1.0)


def _unit_norms(tensor: Tensor) -> Tensor:
    """2-norms of the rows, kept as ``[rows, 1, ...]``; of a vector or a scalar as a whole."""
    dims = tuple(range(1, tensor.dim())) or None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    return norms
