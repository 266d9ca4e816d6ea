"""Does every objective train? Each prediction type x noise schedule x weighting, on digits.

python -m benchmarks.objectives
"""

from __future__ import annotations

import itertools
import multiprocessing
import os

from benchmarks.document import machine, table, write_section
from stabsearch.spec import NoiseScheduleSpec, TrainerSpec

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow")
WEIGHTINGS = ("none", "snr", "min_snr", "soft_min_snr", "p2", "edm")
SCHEDULES = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "linear, zero terminal SNR": {"rescale_betas_zero_snr": True},
    "flow_matching": {"kind": "flow_matching"},
}
ZERO_TERMINAL_SNR = ("linear, zero terminal SNR", "flow_matching")
LEARNING_RATE = 4e-3
REFUSED = "refused"
TO_GAIN = 0.9
"""L_lin / L_iso below which a bin has something to gain over the best scalar gain."""


def spec_of(prediction_type: str, schedule: str, weighting: str) -> TrainerSpec:
    """The demo's trainer at its best learning rate, with another objective."""
    return TrainerSpec(
        prediction_type=prediction_type,
        noise_schedule=NoiseScheduleSpec(**SCHEDULES[schedule]),
        loss_weighting=weighting,
        learning_rate=LEARNING_RATE,
        lr_schedule="cosine",
        eval_every=2000,
        grad_norm_every=0,
    )


def is_refused(prediction_type: str, schedule: str, weighting: str) -> bool:
    """Nothing to train: the weight would be 0 / 0 at the last timestep."""
    is_blind = prediction_type == "epsilon" and schedule in ZERO_TERMINAL_SNR
    return is_blind and weighting != "none"


def ratios(objective: tuple[str, str, str]) -> list[tuple[float, float]] | None:
    """Per bin (held-out loss with EMA weights, L_lin), both over L_iso; None for a refused one."""
    import torch

    from stabsearch.training.trainer import Trainer

    if is_refused(*objective):
        return None
    torch.set_num_threads(1)
    trainer = Trainer(spec_of(*objective), 0)
    while not trainer.is_finished:
        report = trainer.train_window()
    assert report.evaluation is not None
    reference = trainer.facts.reference
    rows = zip(
        report.evaluation.bin_loss_ema, reference.bin_linear, reference.bin_isotropic, strict=True
    )
    return [(loss / isotropic, linear / isotropic) for loss, linear, isotropic in rows]


def cell(bins: list[tuple[float, float]] | None) -> str:
    if bins is None:
        return REFUSED
    above = [str(i) for i, (loss, linear) in enumerate(bins) if linear < TO_GAIN and loss >= 1]
    rest = max((loss for loss, linear in bins if linear >= TO_GAIN), default=1.0)
    return f"{'above in ' + ', '.join(above) if above else 'below'}; {rest:.2f}"


def main() -> None:
    objectives = list(itertools.product(PREDICTION_TYPES, SCHEDULES, WEIGHTINGS))
    # Fresh processes: forking one that has used torch's threads may hang.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        found = dict(zip(objectives, pool.map(ratios, objectives, chunksize=4), strict=True))
    rows = [
        [p, s, *(cell(found[p, s, w]) for w in WEIGHTINGS)]
        for p, s in itertools.product(PREDICTION_TYPES, SCHEDULES)
    ]
    write_section(
        "objectives",
        "Every objective trains",
        f"`make objectives`; {machine()}.\n\n"
        "Digits, the demo's MLP, AdamW, learning rate 4e-3 with cosine decay, 2,000 steps: the "
        "timestep bins (0 is the least noisy) in which something is to be gained over L_iso, the "
        "best scalar-gain denoiser (L_lin < 0.9 L_iso), and whose held-out loss ends above it "
        "nevertheless; then the largest loss / L_iso of the other bins, the noisiest, where no "
        "denoiser can be much below 1. Epsilon is known to be far above L_iso there, sample to "
        "miss bin 0.\n\n" + table(["predicts", "schedule", *WEIGHTINGS], rows),
    )


if __name__ == "__main__":
    main()
