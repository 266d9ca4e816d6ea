"""Spike rules of other trainers, step by step, with their published numbers.

They were written for language models, to skip a batch or to call a person; here a spike prunes,
so that they can be compared with the rules as a gate. Each looks at every step's batch loss or
gradient norm and knows neither timesteps nor what the loss should be. What each does with a NaN
is part of it, and is said below.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from stabsearch.records import Report, Severity, Symptom, TrialFacts, Verdict
from stabsearch.stability.baselines.once import BaselineJudge, mean

LOWER_LR = "Lower the learning rate."


class Spike(NamedTuple):
    """What a detector saw in a step."""

    value: float
    threshold: float
    what: str
    """In words, without the step."""
    symptom: Symptom = Symptom.CATASTROPHIC_EXCURSION


class SpikeDetector(ABC):
    """Sees a trial's steps one by one. Its attributes are plain, and are its state."""

    @abstractmethod
    def observe(self, step: int, loss: float, grad_norm: float | None) -> Spike | None:
        """Take in a step, counted from 1; the norm is None where it was not measured."""

    def state_dict(self) -> dict[str, Any]:
        return {
            name: value.state_dict() if isinstance(value, RollingValues) else _copied(value)
            for name, value in vars(self).items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            mine = getattr(self, name)
            if isinstance(mine, RollingValues):
                mine.load_state_dict(value)
            else:
                setattr(self, name, _copied(value))


class SpikeJudge(BaselineJudge):
    """A verdict for the first spike that a detector sees."""

    def __init__(self, facts: TrialFacts, rule: str, detector: SpikeDetector) -> None:
        super().__init__(facts)
        self._rule = rule
        self._detector = detector

    def find(self, report: Report) -> Iterator[Verdict]:
        losses = report.batch_losses
        norms = report.grad_norms or (None,) * len(losses)
        first = report.step - len(losses) + 1
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
            spike = self._detector.observe(step, loss, norm)
            if spike is not None:
                yield self.verdict(
                    self._rule,
                    spike.symptom,
                    Severity.PRUNE,
                    value=spike.value,
                    threshold=spike.threshold,
                    step=step,
                    reason=f"{spike.what} at step {step}",
                    advice=LOWER_LR,
                )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"detector": self._detector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._detector.load_state_dict(state["detector"])


class Lightning(SpikeDetector):
    """A loss three times the mean of the last ten, and higher than the one before.

    ``SpikeDetection.on_train_batch_end`` and ``_is_spike`` in Lightning's
    fabric/utilities/spike.py, with its defaults: window 10, warmup 1, atol None, rtol 2.0,
    finite_only True. A loss that is not finite is a spike (its docstring says the reverse), but
    not as the very first: then torchmetrics' mean leaves NaN out. A spike does not enter the
    mean. Lightning counts batches anew in every epoch; here they count through.
    """

    WINDOW = 10
    WARMUP = 1
    RTOL = 2.0

    def __init__(self) -> None:
        self.recent: list[float] = []
        self.last = 0.0

    def observe(self, step: int, loss: float, grad_norm: float | None) -> Spike | None:
        del grad_norm
        if step > self.WARMUP:
            if not math.isfinite(loss):
                return Spike(loss, math.inf, f"loss {loss}", Symptom.NON_FINITE)
            known = [value for value in self.recent if not math.isnan(value)]
            usual = mean(known)
            is_better = loss - self.last <= 0
            if not is_better and abs(loss - usual) >= abs(self.RTOL * usual):
                return Spike(
                    loss,
                    (1 + self.RTOL) * usual,
                    f"loss {loss:.3g}, beside a mean of {usual:.3g} over the last {len(known)},",
                )
        self.recent = [*self.recent[1 - self.WINDOW :], loss]
        self.last = loss
        return None


class LlmFoundry(SpikeDetector):
    """Five losses in a row that are twice the mean of the last 100, or half of them above 10.

    ``KillLossSpike.detect_loss_spike`` and ``detect_high_losses`` in llm-foundry's
    callbacks/kill_loss_spike_callback.py, with its defaults (patience 4, outlier_multiplier 2,
    window_size 100, loss_cap 10) and log_only False. It is silent before the window is full, and
    while it holds a NaN. The cap is meant for the cross entropy of text.
    """

    WINDOW = 100
    MULTIPLIER = 2.0
    PATIENCE = 4
    LOSS_CAP = 10.0

    def __init__(self) -> None:
        self.recent: list[float] = []
        self.outliers = 0

    def observe(self, step: int, loss: float, grad_norm: float | None) -> Spike | None:
        del grad_norm
        spike = self._find(step, loss) if len(self.recent) == self.WINDOW else None
        self.recent = [*self.recent[1 - self.WINDOW :], loss]
        return spike

    def _find(self, step: int, loss: float) -> Spike | None:
        threshold = self.MULTIPLIER * mean(self.recent)
        if loss >= threshold:
            self.outliers += 1
            if self.outliers > self.PATIENCE:
                return Spike(
                    loss,
                    threshold,
                    f"{self.outliers} losses in a row above {self.MULTIPLIER:g} times the mean of "
                    f"the last {self.WINDOW}, the last {loss:.3g},",
                )
        else:
            self.outliers = 0
        num_high = sum(value > self.LOSS_CAP for value in self.recent)
        if step >= 2 * self.WINDOW and num_high >= self.WINDOW / 2:
            return Spike(
                num_high,
                self.WINDOW / 2,
                f"{num_high} of the last {self.WINDOW} losses are above {self.LOSS_CAP:g}",
                Symptom.WORSE_THAN_TRIVIAL,
            )
        return None


class RollingValues:
    """The last ``size`` values, for their mean and standard deviation."""

    def __init__(self, size: int) -> None:
        self._values = np.zeros(size)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._values))

    def add(self, value: float) -> None:
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def z_score(self, value: float) -> float:
        """(value - mean) / standard deviation; NaN where one of them is."""
        known = self._values[: len(self)]
        if len(known) < 2:
            return math.nan
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return float((value - known.mean()) / known.std(ddof=1))

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values[: len(self)].tolist(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count = state["count"]
        self._values[: len(state["values"])] = state["values"]


class Olmo(SpikeDetector):
    """A loss or a gradient norm 7 standard deviations from the mean of the last 1,000.

    The spike score of "2 OLMo 2 Furious" (arXiv 2501.00656, section 3.2) counts such values, in
    both directions, afterwards. The paper does not say from how many values on; OLMo-core's
    optimizer, which acts on the same idea, waits for half a window, so this does too. A value that
    is not finite neither is a spike nor enters the mean.
    """

    WINDOW = 1000
    SIGMAS = 7.0

    def __init__(self) -> None:
        self.losses = RollingValues(self.WINDOW)
        self.norms = RollingValues(self.WINDOW)

    def observe(self, step: int, loss: float, grad_norm: float | None) -> Spike | None:
        del step
        series = (("loss", self.losses, loss), ("gradient norm", self.norms, grad_norm))
        found = None
        for name, past, value in series:
            if value is None or not math.isfinite(value):
                continue
            z = past.z_score(value) if len(past) + 1 >= self.WINDOW // 2 else math.nan
            if abs(z) >= self.SIGMAS and found is None:
                found = Spike(z, self.SIGMAS, _in_sigmas(name, value, z))
            past.add(value)
        return found


class OlmoCore(SpikeDetector):
    """A loss or a gradient norm more than 6 standard deviations from the mean of the last 128.

    ``SkipStepOptimizer.get_step_factor`` in OLMo-core's optim/skip_step_optimizer.py with its
    defaults: steps of this kind are skipped, from the 64th on, in both directions. A value that
    is not finite is skipped too, and so is every step for as long as it is remembered.
    """

    WINDOW = 128
    SIGMAS = 6.0

    def __init__(self) -> None:
        self.losses = RollingValues(self.WINDOW)
        self.norms = RollingValues(self.WINDOW)

    def observe(self, step: int, loss: float, grad_norm: float | None) -> Spike | None:
        del step
        found = None
        for name, past, value in (
            ("loss", self.losses, loss),
            ("gradient norm", self.norms, grad_norm),
        ):
            if value is None:
                continue
            if found is None and len(past) + 1 >= max(20, self.WINDOW // 2):
                z = past.z_score(value)
                if not abs(z) <= self.SIGMAS:
                    symptom = (
                        Symptom.CATASTROPHIC_EXCURSION
                        if math.isfinite(value)
                        else Symptom.NON_FINITE
                    )
                    found = Spike(z, self.SIGMAS, _in_sigmas(name, value, z), symptom)
            past.add(value)
        return found


class ZClip(SpikeDetector):
    """A gradient norm 2.5 standard deviations above its exponential moving average.

    ``ZClip`` in bluorion-com/ZClip's zclip/zclip.py (arXiv 2504.02507), mode zscore with adaptive
    scaling and the defaults: alpha 0.97, z_thresh 2.5, 25 steps of warm-up, clip_factor 1. It is
    a way of clipping, and no reason to stop a training. The average takes in the norm as it was
    clipped, so that it cannot follow norms that grow early: it flags most steps of many healthy
    runs from there on. A NaN enters the average and silences it for good.
    """

    ALPHA = 0.97
    Z_THRESHOLD = 2.5
    WARMUP = 25
    EPSILON = 1e-6

    def __init__(self) -> None:
        self.warmup: list[float] = []
        self.mean = math.nan
        self.variance = math.nan

    def observe(self, step: int, loss: float, grad_norm: float | None) -> Spike | None:
        del step, loss
        if grad_norm is None:
            return None
        if len(self.warmup) < self.WARMUP:
            self._warm_up(grad_norm)
            return None
        deviation = math.sqrt(self.variance)
        z = (grad_norm - self.mean) / (deviation + self.EPSILON)
        if z > self.Z_THRESHOLD:
            self._update(self.mean + self.Z_THRESHOLD * deviation / (z / self.Z_THRESHOLD))
            return Spike(z, self.Z_THRESHOLD, _in_sigmas("gradient norm", grad_norm, z))
        self._update(grad_norm)
        return None

    def _warm_up(self, grad_norm: float) -> None:
        self.warmup.append(grad_norm)
        if len(self.warmup) == self.WARMUP:
            self.mean = sum(self.warmup) / self.WARMUP
            self.variance = sum(_square(norm - self.mean) for norm in self.warmup) / self.WARMUP

    def _update(self, grad_norm: float) -> None:
        self.mean = self.ALPHA * self.mean + (1 - self.ALPHA) * grad_norm
        square = _square(grad_norm - self.mean)  # from the new mean, as written
        self.variance = self.ALPHA * self.variance + (1 - self.ALPHA) * square


SPIKE_DETECTORS: dict[str, Callable[[], SpikeDetector]] = {
    "lightning": Lightning,
    "llm_foundry": LlmFoundry,
    "olmo": Olmo,
    "olmo_core": OlmoCore,
    "zclip": ZClip,
}


def _in_sigmas(name: str, value: float, z: float) -> str:
    return f"{name} {value:.3g}, {z:.3g} standard deviations from its mean,"


def _square(x: float) -> float:
    return x * x  # x**2 raises OverflowError


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
