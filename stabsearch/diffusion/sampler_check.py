"""Does a sampler draw what the model knows? Tried where the answer is known exactly (rule R11).

    check = check_sampler(ddim, data, schedule, "epsilon", name="ddim")
    check.mean_z2, check.log_variance     # about 1 and about 0 for a sampler that is right

The sampler is given a model that cannot be wrong: the best denoiser of Gaussian data with the mean
and the covariance of the examples, which is linear (LMMSE), behind the interface of the trainer's
models. Samples with another mean or covariance than that Gaussian are then the sampler's doing:
another noise schedule, another prediction type, shifted timesteps, too few steps.

The mean shows most mistakes, but not around 0, where a sampler that scales its samples wrongly has
the right mean. So along every component the Gaussian's mean is at least one standard deviation.

What is left of the examples at the last timestep is not the sampler's doing: it starts from pure
noise, and its samples are off by what the schedule withholds (rule R14). That much is forgiven.
"""

# N = samples, T = num_train_timesteps, d = numbers per example, k = components

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stabsearch.diffusion.noise_schedule import NoiseSchedule
from stabsearch.diffusion.prediction_type import PREDICTION_TYPES
from stabsearch.diffusion.samplers import Sampler, call_sampler
from stabsearch.errors import SpecError
from stabsearch.records import SamplerCheck

Array = NDArray[np.float64]

MAX_FULL_DIMENSIONS = 1024
"""Examples with more numbers get their largest components, and one variance for all the rest."""
NUM_LARGEST = 32
"""Components of such examples."""
MAX_BASIS_EXAMPLES = 512
"""Examples that those components are taken from."""
NUM_SAMPLES = 1000
MIN_SAMPLES = 100
MAX_SAMPLE_NUMBERS = 1 << 20
"""Numbers in all samples together: of large examples there are fewer, MIN_SAMPLES at least."""
VARIANCE_FLOOR = 1e-4
"""Components below this share of the largest variance are not judged: a hundredth of its spread,
which no eye sees, and which a right sampler may well leave some noise in."""
NUM_VARIANCES = 8
"""Largest components, over which the log of sample / data variance is averaged."""
RANGE_STDS = 4.0
"""Standard deviations that stay within the range of the examples in ``GaussianData.within``."""


@dataclass(frozen=True, slots=True)
class GaussianData:
    """A normal distribution with the statistics of some examples; its best denoiser is linear."""

    mean: Array
    """[d]"""
    basis: Array
    """[d, k] orthonormal: the principal components, largest variance first."""
    variances: Array
    """[k] along them, all above 0."""
    rest_variance: float
    """Along every direction outside of the basis."""

    def within(self, low: float, high: float) -> GaussianData:
        """The same, drawn together around the middle of a range until nearly all lies inside.

        On it a sampler that clips x0 to that range does what one that does not clip does.
        """
        middle, half = (low + high) / 2, (high - low) / 2
        std = np.sqrt((self.basis**2 * self.variances).sum(axis=1) + self.rest_variance)
        reach = float(np.max(np.abs(self.mean - middle) + RANGE_STDS * std))
        scale = min(1.0, half / reach)
        return replace(
            self,
            mean=middle + scale * (self.mean - middle),
            variances=scale**2 * self.variances,
            rest_variance=scale**2 * self.rest_variance,
        )


def gaussian_of(examples: NDArray[np.float32]) -> GaussianData:
    """The Gaussian of ``examples[M, ...]``: of their covariance, up to 1,024 numbers each.

    Beyond, the 32 largest components of at most 512 examples, and what is left of the variance
    shared evenly by all other directions: still a Gaussian whose best denoiser is known exactly.
    """
    gaussian = _estimated(examples)
    along = gaussian.basis.T @ gaussian.mean
    stds = np.sqrt(gaussian.variances)
    moved = np.where(along < 0, np.minimum(along, -stds), np.maximum(along, stds))
    return replace(gaussian, mean=gaussian.mean + gaussian.basis @ (moved - along))


def _estimated(examples: NDArray[np.float32]) -> GaussianData:
    rows = examples.reshape(len(examples), -1)
    num_dimensions = rows.shape[1]
    if num_dimensions > MAX_FULL_DIMENSIONS:
        rows = rows[:MAX_BASIS_EXAMPLES]
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    if num_dimensions <= MAX_FULL_DIMENSIONS:
        variances, basis = np.linalg.eigh(centred.T @ centred / len(rows))
        variances, basis = variances[::-1], basis[:, ::-1]
        known = variances > variances[0] * 1e-12
        return GaussianData(mean, basis[:, known], variances[known], 0.0)
    squares, left = np.linalg.eigh(centred @ centred.T / len(rows))
    known = np.argsort(squares)[::-1][:NUM_LARGEST]
    known = known[squares[known] > squares[-1] * 1e-6]  # the root of a rounding error is no basis
    variances = squares[known]
    basis = centred.T @ left[:, known] / np.sqrt(variances * len(rows))
    rest = max(0.0, float(squares.sum() - variances.sum())) / (num_dimensions - len(known))
    return GaussianData(mean, basis, variances, rest)


class LinearDenoiser(nn.Module):
    """The best denoiser of Gaussian data, behind the interface of the trainer's models.

    With r = x_t - signal * mean and gain_i = signal l_i / (signal^2 l_i + sigma^2) along component
    i: x0 = mean + V diag(gain) V' r, and the target follows from x_t and x0.
    """

    def __init__(
        self,
        gaussian: GaussianData,
        schedule: NoiseSchedule,
        prediction_type: str,
    ) -> None:
        super().__init__()
        is_small = len(gaussian.mean) <= MAX_FULL_DIMENSIONS
        dtype = torch.float64 if is_small else torch.float32
        signal, sigma = schedule.signal, schedule.sigma
        gain = _gain(signal[:, None], sigma[:, None], gaussian.variances)
        rest_gain = _gain(signal, sigma, np.full_like(signal, gaussian.rest_variance))
        noise_weight, sample_weight = PREDICTION_TYPES[prediction_type].weights(schedule)
        # target = noise_weight e + sample_weight x0, with e = (x_t - signal x0) / sigma
        of_x_t = noise_weight / sigma
        tables = np.stack([signal, rest_gain, of_x_t, sample_weight - of_x_t * signal])
        # Parameters, because samplers ask a model for its device by them.
        self.mean = _constant(gaussian.mean, dtype)
        self.basis = _constant(gaussian.basis, dtype)
        self.extra_gain = _constant(gain - rest_gain[:, None], dtype)
        self.tables = _constant(tables, dtype)
        self.num_calls = 0

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Raises ValueError for what no model of the trainer was ever given."""
        timesteps = self._checked(x_t, timesteps)
        self.num_calls += 1
        rows = x_t.flatten(1).to(self.mean.dtype)
        signal, rest_gain, of_x_t, of_x0 = self.tables[:, timesteps, None].unbind()
        residual = rows - signal * self.mean
        in_basis = (residual @ self.basis) * self.extra_gain[timesteps]
        x0 = torch.addmm(self.mean + rest_gain * residual, in_basis, self.basis.T)
        target = of_x_t * rows + of_x0 * x0
        return target.to(x_t.dtype).view_as(x_t)

    def _checked(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        if x_t[0].numel() != len(self.mean):
            raise ValueError(
                f"the model was called with x_t of shape {list(x_t.shape)}, which is no batch of "
                f"examples of {len(self.mean)} numbers."
            )
        if not isinstance(timesteps, Tensor) or timesteps.is_floating_point():
            found = timesteps.dtype if isinstance(timesteps, Tensor) else type(timesteps).__name__
            raise ValueError(
                f"the model was called with timesteps as {found}; a model is trained on int64 "
                "timesteps[N]. Round to the nearest timestep."
            )
        low, high, total = int(timesteps.min()), int(timesteps.max()), self.tables.shape[1]
        if low < 0 or high >= total:
            raise ValueError(
                f"the model was called at timestep {low if low < 0 else high}; it knows 0 to "
                f"{total - 1}."
            )
        return timesteps.expand(len(x_t))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerMeasurement:
    """A check with the numbers that it summarises, component by component."""

    check: SamplerCheck
    z2: Array
    """[k] squared z score of the samples' mean along the judged components, largest first."""
    variance_ratio: Array
    """[k] sample variance / data variance."""
    lowest: float
    """Smallest number in all samples."""
    highest: float
    num_samples: int
    num_model_calls: int


def check_sampler(
    sampler: Sampler,
    data: NDArray[np.float32] | GaussianData,
    schedule: NoiseSchedule,
    prediction_type: str,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    sample_shape: tuple[int, ...] | None = None,
) -> SamplerCheck:
    """``measure_sampler``, in two numbers."""
    return measure_sampler(
        sampler,
        data,
        schedule,
        prediction_type,
        name=name,
        options=options,
        sample_shape=sample_shape,
    ).check


def measure_sampler(
    sampler: Sampler,
    data: NDArray[np.float32] | GaussianData,
    schedule: NoiseSchedule,
    prediction_type: str,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    sample_shape: tuple[int, ...] | None = None,
    told: tuple[NoiseSchedule, str] | None = None,
) -> SamplerMeasurement:
    """Run a sampler on the linear denoiser of ``data[M, ...]`` and compare the samples with it.

    ``told``: the schedule and the prediction type that a sampler hears which asks for them, where
    they are not the model's. The same arguments give the same numbers, and nobody else's random
    numbers are drawn.

    Raises SpecError that names the sampler if it cannot be called as one, if it raises, or returns
    anything but samples.
    """
    if isinstance(data, GaussianData):
        gaussian, shape = data, sample_shape or data.mean.shape
    else:
        gaussian, shape = gaussian_of(data), sample_shape or data.shape[1:]
    num_samples = min(NUM_SAMPLES, max(MIN_SAMPLES, MAX_SAMPLE_NUMBERS // len(gaussian.mean)))
    model = LinearDenoiser(gaussian, schedule, prediction_type)
    told_schedule, told_prediction_type = told or (schedule, prediction_type)
    offered = {"noise_schedule": told_schedule, "prediction_type": told_prediction_type}
    full_shape = (num_samples, *shape)
    _check_call(sampler, name, offered, options or {})
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _few_threads(gaussian):
            torch.manual_seed(0)  # for a sampler that does not use the generator
            samples = call_sampler(
                sampler,
                model,
                full_shape,
                generator=torch.Generator().manual_seed(0),
                offered=offered,
                options=dict(options or {}),
            )
    except (Exception, SystemExit) as error:  # a user's code may exit
        raise SpecError(
            f"sampler {name}: raised {type(error).__name__}: {error} ({_where(error)})"
        ) from error
    rows = _rows_of(samples, full_shape, name)
    return _compared(rows, gaussian, schedule, name, model.num_calls)


def _check_call(
    sampler: Sampler, name: str, offered: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """That it takes what a sampler is called with; Python's own complaint would cite our line."""
    try:
        signature = inspect.signature(sampler)
    except (TypeError, ValueError):  # written in C, or not a function
        return
    asked = {word: value for word, value in offered.items() if word in signature.parameters}
    try:
        signature.bind("model", "shape", **{"generator": None, **asked, **options})
    except TypeError as error:
        words = ", ".join(f"{word}=..." for word in ("generator", *options))
        or_less = ", or leave out the options that it does not know" if options else ""
        raise SpecError(
            f"sampler {name}: {error}; it is defined with {signature} and called with (model, "
            f"shape, {words}). Give it these parameters (docs/samplers.md){or_less}."
        ) from error


@contextmanager
def _few_threads(gaussian: GaussianData) -> Iterator[None]:
    """Small matrices gain nothing from many, and wait for all of them on a busy machine."""
    before = torch.get_num_threads()
    if len(gaussian.mean) <= MAX_FULL_DIMENSIONS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _where(error: BaseException) -> str:
    """The innermost line that is not the model's."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    last = [f for f in frames if "torch" not in Path(f.filename).parts][-1:]
    return f"{Path(last[0].filename).name}, line {last[0].lineno}" if last else "nowhere known"


def _rows_of(samples: Any, shape: tuple[int, ...], name: str) -> Array:
    if not isinstance(samples, Tensor) or tuple(samples.shape) != shape:
        found = (
            f"a tensor of shape {list(samples.shape)}"
            if isinstance(samples, Tensor)
            else f"a {type(samples).__name__}"
        )
        raise SpecError(
            f"sampler {name}: returned {found}; it was asked for samples as a tensor of shape "
            f"{list(shape)}. Return x0 for the whole batch."
        )
    rows: Array = samples.detach().to("cpu", torch.float64).flatten(1).numpy()
    return rows


def _compared(
    rows: Array, gaussian: GaussianData, schedule: NoiseSchedule, name: str, calls: int
) -> SamplerMeasurement:
    judged = gaussian.variances >= VARIANCE_FLOOR * gaussian.variances[0]
    variances = gaussian.variances[judged]
    num_samples = len(rows)
    if not np.isfinite(rows).all():
        lost = np.full(len(variances), math.inf)
        return SamplerMeasurement(
            check=SamplerCheck(name=name, mean_z2=math.inf, log_variance=math.inf),
            z2=lost,
            variance_ratio=lost,
            lowest=-math.inf,
            highest=math.inf,
            num_samples=num_samples,
            num_model_calls=calls,
        )
    basis = gaussian.basis[:, judged]
    along = (rows - gaussian.mean) @ basis
    # The exact sampler scales what it starts from by data std / std of x_T, noise it thinks.
    signal, sigma = float(schedule.signal[-1]), float(schedule.sigma[-1])
    terminal = signal**2 * variances + sigma**2
    withheld = -signal * (gaussian.mean @ basis) * np.sqrt(variances / terminal)
    z2 = num_samples * _beyond(along.mean(axis=0), withheld) ** 2 / variances
    ratio = along.var(axis=0, ddof=1) / variances
    with np.errstate(divide="ignore"):  # samples that are all equal
        logs = np.log(ratio[:NUM_VARIANCES])
    log_variance = float(np.mean(_beyond(logs, -np.log(terminal[:NUM_VARIANCES]))))
    return SamplerMeasurement(
        check=SamplerCheck(
            name=name,
            mean_z2=_mean_z2(z2, rows.mean(axis=0), gaussian, schedule, num_samples),
            log_variance=log_variance,
        ),
        z2=z2,
        variance_ratio=ratio,
        lowest=float(rows.min()),
        highest=float(rows.max()),
        num_samples=num_samples,
        num_model_calls=calls,
    )


def _beyond(found: Array, forgiven: Array) -> Array:
    """How far a number lies outside of the interval from 0 to another; element by element."""
    beyond: Array = found - np.clip(found, np.minimum(forgiven, 0), np.maximum(forgiven, 0))
    return beyond


def _mean_z2(
    z2: Array,
    sample_mean: Array,
    gaussian: GaussianData,
    schedule: NoiseSchedule,
    num_samples: int,
) -> float:
    """Over the judged components, and the directions outside of the basis if they count."""
    rest = gaussian.rest_variance
    if rest < VARIANCE_FLOOR * gaussian.variances[0]:
        return float(z2.mean())
    mean, shift = (
        vector - gaussian.basis @ (gaussian.basis.T @ vector)
        for vector in (gaussian.mean, sample_mean - gaussian.mean)
    )
    signal, sigma = float(schedule.signal[-1]), float(schedule.sigma[-1])
    withheld = -signal * mean * math.sqrt(rest / (signal**2 * rest + sigma**2))
    beyond = _beyond(shift, withheld)
    num_outside = len(mean) - len(gaussian.variances)
    return float((z2.sum() + num_samples * (beyond @ beyond) / rest) / (len(z2) + num_outside))


def _gain(signal: Array, sigma: Array, variance: Array) -> Array:
    gain: Array = signal * variance / (signal**2 * variance + sigma**2)
    return gain


def _constant(values: Array, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype), requires_grad=False)
