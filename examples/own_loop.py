"""A diffusion training written by hand, watched by stabsearch.Monitor.

    python examples/own_loop.py                        # learns
    python examples/own_loop.py --learning-rate 0.3    # is stopped, with a reason

Five lines are stabsearch's; they are marked.
"""

from __future__ import annotations

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import stabsearch

NUM_TRAIN_TIMESTEPS = 1000


class Denoiser(nn.Module):
    """Predicts the noise in 8x8 images."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, -4, 16))
        self.layers = nn.Sequential(
            nn.Linear(64 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.out = nn.Linear(width, 64)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        angles = timesteps[:, None] * self.frequencies
        features = torch.cat([x_t.flatten(1), angles.sin(), angles.cos()], dim=1)
        return self.out(self.layers(features)).view_as(x_t)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--save", metavar="PATH", help="write a study's folder of this one trial")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    images, held_out = images[:1500], images[1500:]
    betas = torch.linspace(1e-4, 0.02, NUM_TRAIN_TIMESTEPS, dtype=torch.float64)
    alphas_cumprod = (1 - betas).cumprod(0)
    model = Denoiser()
    ema_model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate)

    monitor = stabsearch.Monitor(  # <- 1
        images,
        noise_schedule=alphas_cumprod,
        max_train_steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        model=model,  # with these four, reports also hold held-out losses and kappa
        held_out=held_out,
        ema_model=ema_model,
        ema_schedule="ramped",
    )
    for step in range(arguments.steps):
        x0 = images[torch.randint(len(images), (128,))]
        timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (len(x0),))
        alpha_bar = alphas_cumprod[timesteps].float().view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        prediction = model(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise, timesteps)
        losses = (prediction - noise).square().flatten(1).mean(1)
        monitor.observe(timesteps, losses)  # <- 2
        optimizer.zero_grad()
        losses.mean().backward()
        monitor.clip(model.parameters(), max_norm=1.0)  # <- 3
        optimizer.step()
        with torch.no_grad():
            for average, weight in zip(ema_model.parameters(), model.parameters(), strict=True):
                average.lerp_(weight, 1 - min(0.9999, (2 + step) / (11 + step)))
        if judged := monitor.report():  # <- 4
            show(judged)
        if monitor.should_stop:  # <- 5
            print(f"stopped at step {step + 1}. {monitor.stop_reason}")
            break
    if arguments.save:
        monitor.save(arguments.save)


def show(judged: stabsearch.records.JudgedReport) -> None:
    """Every fourth report, and every verdict."""
    report = judged.report
    if report.evaluation is not None:
        bins = " ".join(f"{loss:.2f}" for loss in report.bin_loss)
        print(
            f"step {report.step:4}  loss {report.loss:.3f}  by timestep {bins}  "
            f"clipped {report.clip_rate:.0%}  kappa {report.evaluation.kappa:.3f}"
        )
    for verdict in judged.verdicts:
        print(f"  {verdict.severity.name} {verdict.rule}: {verdict.reason}. {verdict.advice}")


if __name__ == "__main__":
    main()
