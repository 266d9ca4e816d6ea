"""A case whose edge is known exactly: full-batch gradient descent on a linear denoiser.

One matrix for all timesteps, W x_t for the noise, on the digits' second moments: the loss is a
quadratic, so descent with momentum beta converges up to 2 (1 + beta) / lambda_max and not above
(Polyak 1964). In the eigenbasis of the second moments a W that starts at 0 stays diagonal, and its
descent is 64 numbers long. The strategy and the rules are the product's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stabsearch.recommend.space import learning_rate_of
from stabsearch.records import Outcome, Report, Severity, StoppedBy, TrialFacts, TrialRecord
from stabsearch.search.boundary import Boundary
from stabsearch.search.ledger import LiveTrial, make_trial_id
from stabsearch.search.strategy import Proposal, trial_end
from stabsearch.spec import StudySpec
from stabsearch.stability.judges import make_judge

Floats = NDArray[np.float64]


def study(momentum: float, probes: int) -> StudySpec:
    """The search: only so many short trials, of 400 steps each."""
    return StudySpec.model_validate(
        {
            "name": "linear",
            "space": {"learning_rate": {"log_uniform": [1e-2, 300]}},
            "trainer": {
                "optimizer": "sgd",
                "momentum": momentum,
                "clipping": "none",
                "max_grad_norm": None,
                "lr_warmup_steps": 0,
                "max_train_steps": 4000,
                "report_every": 10,
                "eval_every": 400,
            },
            "searcher": {"name": "boundary"},
            "stop_when": "edge within 0.01 octave",
            "trials": probes,
        }
    )


@dataclass(frozen=True)
class LinearDenoiser:
    """The quadratic: per timestep and eigenvalue, curvature and slope of the loss at 0."""

    curvature: Floats
    """``[T, d]``: E x_t^2 along every eigenvector."""
    slope: Floats
    """``[T]``: E x_t e, the noise level."""

    @property
    def lambda_max(self) -> float:
        return float(2 / self.curvature.shape[1] * self.curvature.mean(axis=0).max())

    def lr_max(self, momentum: float) -> float:
        """Above it descent does not converge."""
        return 2 * (1 + momentum) / self.lambda_max

    def losses(self, weights: Floats) -> Floats:
        """Of every timestep ``[T]``, at a diagonal W ``[d]``."""
        quadratic = self.curvature * weights**2 - 2 * self.slope[:, None] * weights + 1
        result: Floats = quadratic.mean(axis=1)
        return result

    def descend(self, learning_rate: float, momentum: float) -> Iterator[Floats]:
        """W after every step."""
        dimensions = self.curvature.shape[1]
        curvature, slope = self.curvature.mean(axis=0), self.slope.mean()
        weights, velocity = np.zeros(dimensions), np.zeros(dimensions)
        while True:
            gradient = 2 / dimensions * (curvature * weights - slope)
            velocity = momentum * velocity + gradient
            weights = weights - learning_rate * velocity
            yield weights


@functools.cache
def digits() -> tuple[LinearDenoiser, TrialFacts]:
    """The denoiser, and what the rules are told of a trial."""
    from stabsearch.diffusion.prepared_data import prepare_data
    from stabsearch.training.trainer import Trainer, load_schedule

    spec = study(0.0, 1).trainer
    data = prepare_data(spec.data)
    examples = data.dataset.train.reshape(len(data.dataset.train), -1).astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(examples.T @ examples / len(examples))
    signal2 = load_schedule(spec.noise_schedule).alphas_cumprod
    denoiser = LinearDenoiser(
        curvature=signal2[:, None] * eigenvalues + (1 - signal2)[:, None],
        slope=np.sqrt(1 - signal2),
    )
    return denoiser, Trainer(spec, 0, data).facts


def train(spec: StudySpec, proposal: Proposal, number: int) -> TrialRecord:
    """A short trial, judged report by report."""
    assert proposal.params is not None
    rate = float(proposal.params["learning_rate"] or math.nan)
    denoiser, facts = digits()
    facts = replace(facts, learning_rate=rate)
    judge = make_judge({"name": "rules"}, facts)
    live = LiveTrial(
        trial_id=make_trial_id(number, 0),
        setting=number,
        seed=0,
        params=proposal.params,
        max_train_steps=facts.max_train_steps,
        purpose=proposal.purpose,
        facts=facts,
    )
    end = trial_end(spec, spec.trainer, proposal.length) or facts.max_train_steps
    descent = denoiser.descend(rate, spec.trainer.momentum)
    for step in range(facts.report_every, end + 1, facts.report_every):
        path = [next(descent) for _ in range(facts.report_every)]
        judged = judge.judge(report_of(denoiser, facts, step, path))
        live.reports[step] = judged.report
        live.add_verdicts(judged.verdicts)
        if any(verdict.severity is Severity.PRUNE for verdict in judged.verdicts):
            return live.record(Outcome.DIVERGED, StoppedBy.GATE)
    return live.record(Outcome.STOPPED, StoppedBy.PROBE)


def report_of(
    denoiser: LinearDenoiser, facts: TrialFacts, step: int, path: list[Floats]
) -> Report:
    """What a window of full-batch steps would report: every loss exactly, nothing of norms."""
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.array([denoiser.losses(weights) for weights in path])
    finite = np.isfinite(losses).all(axis=1)
    bins = len(facts.bin_edges) - 1
    binned = losses.reshape(len(path), bins, -1).mean(axis=2).mean(axis=0)
    batch = losses.mean(axis=1)
    return Report(
        step=step,
        learning_rate=facts.learning_rate,
        loss=float(binned.mean()),
        bin_loss=tuple(binned.tolist()),
        bin_count=(10**4,) * bins,
        bin_nonfinite=(0,) * bins,
        max_batch_loss=float(batch[finite].max(initial=0.0)),
        grad_norm_median=math.nan,
        grad_norm_max=math.nan,
        clip_rate=0.0,
        clip_coef_mean=1.0,
        clip_coef_cv=0.0,
        outlier_norm_rate=0.0,
        clamped_fraction=0.0,
        bin_grad_norm=(math.nan,) * bins,
        bin_grad_count=(0,) * bins,
        bin_grad_cosine=None,
        nonfinite_steps=int((~finite).sum()),
        scaler_skips=0,
        first_nonfinite_step=None if finite.all() else step,
        first_nonfinite_bins=(),
        train_seconds=0.0,
        evaluation=None,
        batch_losses=tuple(batch.tolist()),
        grad_norms=(math.nan,) * len(path),
        frozen_parameters=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search of one case came to."""

    momentum: float
    lr_max: float
    """Exact."""
    found: float
    """The middle between the highest rate within the edge and the lowest beyond it."""
    probes: int

    @property
    def error_octaves(self) -> float:
        return math.log2(self.found / self.lr_max)


def find(momentum: float, probes: int = 10) -> Found:
    """Search for the edge with at most so many short trials."""
    spec = study(momentum, probes)
    strategy, records = Boundary(spec), []
    while len(records) < probes:
        step = strategy.next(records, (), len(records))
        if not isinstance(step, Proposal):
            break
        records.append(train(spec, step, len(records)))
    within = [learning_rate_of(r.params) for r in records if not r.is_unstable]
    beyond = [learning_rate_of(r.params) for r in records if r.is_unstable]
    return Found(
        momentum=momentum,
        lr_max=digits()[0].lr_max(momentum),
        found=math.sqrt(max(within) * min(beyond)),
        probes=len(records),
    )
