"""The chapter's forms, kept to be compared with; nothing imports them but these tests.

stabsearch started from the numerics chapter of a textbook on diffusion models. Here is what it
says in code and in claims, defects included, as short as it can be said. Do not use it.
"""

# B = batch, T = num_train_timesteps, ... = the shape of an example

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- What the loss should be, by timestep ---

EXPECTED_LOSS_ORDER = ("t = 1", "t = T/2", "t = T")
"""Epsilon loss of the optimal model from low to high: "very low", "moderate", "high"."""
SIGMA_AT_HALF = 0.5
"""Noise level sigma at t = T/2."""

# --- Schedule and losses ---


def compute_schedule_stable(betas: Tensor) -> dict[str, Tensor]:
    """The tables ``[T]`` of a schedule, "in log space, to avoid underflow"."""
    log_alphas_cumprod = torch.log(1 - betas).cumsum(0)
    alphas_cumprod = log_alphas_cumprod.exp().clamp(min=1e-10)
    log_snr = (log_alphas_cumprod - torch.log(1 - alphas_cumprod)).clamp(max=20)
    return {"alphas_cumprod": alphas_cumprod, "log_snr": log_snr, "snr": log_snr.exp()}


def stable_mse_loss(prediction: Tensor, target: Tensor, loss_clip: float = 100.0) -> Tensor:
    return ((prediction - target) ** 2).clamp(max=loss_clip).mean()


def stratified_timesteps(batch_size: int, num_train_timesteps: int) -> Tensor:
    """Sample timesteps (stratified), says the comment."""
    return torch.randint(0, num_train_timesteps, (batch_size,))


# --- What is measured ---


class GradientMonitor:
    """Gradient norm and loss "per timestep"."""

    def __init__(self) -> None:
        self.grad_norms: dict[int, list[float]] = defaultdict(list)
        self.losses: dict[int, list[float]] = defaultdict(list)

    def record_gradients(self, model: nn.Module, timesteps: Tensor) -> None:
        """Write ||gradient of the batch|| / B under every timestep that occurs in it."""
        total = sum(p.grad.norm() ** 2 for p in model.parameters()) ** 0.5
        for timestep in timesteps.unique().tolist():
            self.grad_norms[timestep].append(float(total) / len(timesteps))

    def record_losses(self, sample_losses: Tensor, timesteps: Tensor) -> None:
        for timestep, loss in zip(timesteps.tolist(), sample_losses.tolist(), strict=True):
            self.losses[timestep].append(loss)

    def mean_losses(self) -> dict[int, float]:
        """Of timesteps with at least 10 losses, from the first step on."""
        return {t: sum(x) / len(x) for t, x in self.losses.items() if len(x) >= 10}


def clip_gradients(model: nn.Module, max_norm: float) -> dict[str, object]:
    total_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return {"total_norm": total_norm, "clipped": total_norm > max_norm}


# --- What is concluded ---

LOWER_LR = "Loss increasing: reduce the learning rate"
CLIPS_TOO_OFTEN = "High clip rate: reduce the learning rate or raise max_norm"
IMBALANCED = "Loss imbalance between timesteps: use SNR weighting or v-prediction"
RAISE_LR = "Loss stuck: increase the learning rate"


@dataclass
class TrainingDiagnostics:
    """What a run leaves behind."""

    losses: list[float] = field(default_factory=list)
    clipped: list[object] = field(default_factory=list)
    timestep_losses: dict[int, float] = field(default_factory=dict)


def analyze_diagnostics(run: TrainingDiagnostics) -> list[str]:
    """The four rules."""
    first, last = torch.tensor(run.losses[:100]), torch.tensor(run.losses[-100:])
    findings = []
    if last.mean() > first.mean():
        findings.append(LOWER_LR)
    if run.clipped and sum(bool(c) for c in run.clipped) / len(run.clipped) > 0.5:
        findings.append(CLIPS_TOO_OFTEN)
    by_timestep = run.timestep_losses.values()
    if by_timestep and max(by_timestep) > 5 * min(by_timestep):
        findings.append(IMBALANCED)
    if last.var() < 1e-6:
        findings.append(RAISE_LR)
    return findings


# --- The trainer ---


@dataclass
class StableTrainingConfig:
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    batch_size: int = 64
    max_norm: float = 1.0
    warmup_steps: int = 1000
    ema_decay: float = 0.9999
    loss_clip: float = 100.0


def warmup_lr(step: int, config: StableTrainingConfig) -> float:
    return config.learning_rate * min(1.0, step / config.warmup_steps)


class EMAModel:
    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.data.clone() for name, p in model.named_parameters()}
        self.backup: dict[str, Tensor] = {}

    def update(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            self.shadow[name] = self.decay * self.shadow[name] + (1 - self.decay) * p.data

    def apply_shadow(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            self.backup[name] = p.data.clone()
            p.data = self.shadow[name]

    def restore(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            p.data = self.backup[name]


class PlaceholderModel(nn.Sequential):
    """The model that the chapter's example hands to its trainer."""

    def __init__(self, num_dimensions: int) -> None:
        super().__init__(nn.Linear(num_dimensions, 64), nn.SiLU(), nn.Linear(64, num_dimensions))


class StableDiffusionTrainer:
    """Epsilon prediction with AdamW."""

    def __init__(
        self, model: nn.Module, alphas_cumprod: Tensor, config: StableTrainingConfig
    ) -> None:
        self.model = model
        self.alphas_cumprod = alphas_cumprod
        self.config = config
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.ema = EMAModel(model, config.ema_decay)
        self.monitor = GradientMonitor()
        self.diagnostics = TrainingDiagnostics()
        self.step = 0

    def sample_losses(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Unclipped losses ``[B]``."""
        prediction = self.model(self.noised(x0, timesteps, noise), timesteps)
        return F.mse_loss(prediction, noise, reduction="none").flatten(1).mean(1)

    def noised(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        alpha_bar = self.alphas_cumprod[timesteps].view(-1, *[1] * (x0.dim() - 1))
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise

    def train_step(self, x0: Tensor) -> float:
        """One step on a batch ``[B, ...]``; returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = warmup_lr(self.step, self.config)
        timesteps = stratified_timesteps(len(x0), len(self.alphas_cumprod))
        noise = torch.randn_like(x0)
        prediction = self.model(self.noised(x0, timesteps, noise), timesteps)
        loss = stable_mse_loss(prediction, noise, self.config.loss_clip)
        self.optimizer.zero_grad()
        loss.backward()
        self.monitor.record_gradients(self.model, timesteps)
        self.monitor.record_losses(
            (prediction - noise).detach().square().flatten(1).mean(1), timesteps
        )
        clip = clip_gradients(self.model, self.config.max_norm)
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        self.diagnostics.losses.append(loss.item())
        self.diagnostics.clipped.append(clip["clipped"])
        return loss.item()

    def train(self, data: Tensor, num_steps: int) -> TrainingDiagnostics:
        for _ in range(num_steps):
            self.train_step(data[torch.randint(len(data), (self.config.batch_size,))])
        self.diagnostics.timestep_losses = self.monitor.mean_losses()
        return self.diagnostics

    @torch.no_grad()
    def evaluate(self, data: Tensor) -> tuple[float, dict[int, float]]:
        """Mean loss of the EMA weights on ``data[N, ...]``, and the mean loss per timestep."""
        self.ema.apply_shadow(self.model)
        timesteps = torch.randint(0, len(self.alphas_cumprod), (len(data),))
        losses = self.sample_losses(data, timesteps, torch.randn_like(data))
        by_timestep = {
            t: losses[timesteps == t].mean().item() for t in timesteps.unique().tolist()
        }
        self.ema.restore(self.model)
        return losses.mean().item(), by_timestep
