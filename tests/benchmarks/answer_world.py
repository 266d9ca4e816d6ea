"""A grid whose trials are drawn by hand: what it is to search is plain to see."""

from __future__ import annotations

import math

from benchmarks.answer.blackbox import Blackbox, Course, Setting
from benchmarks.truth.grids import Grid, Split, trainer
from tests.stability.reports import REFERENCE, evaluation, facts, report

STEPS, REPORT_EVERY, EVAL_EVERY = 400, 10, 40
RATES = tuple(1e-3 * 2**octave for octave in range(8))
CLIPS = (None, 1.0)
SEEDS = (0, 1)
BEST, EDGE = RATES[4], RATES[6]
"""From the edge on a trial dies at a fifth of its budget; until then none has a better score."""

GRID = Grid(
    name="world",
    split=Split.TUNING,
    task="drawn by hand",
    trainer=trainer(
        max_train_steps=STEPS,
        report_every=REPORT_EVERY,
        eval_every=EVAL_EVERY,
        lr_warmup_fraction=0.05,
    ),
    learning_rates=dict.fromkeys(CLIPS, RATES),
    seeds=len(SEEDS),
)


def final_score(setting, seed):
    """Quadratic in octaves, a little lower with a clip and higher with seed 1."""
    octaves = 0 if is_dead(setting) else math.log2(setting.learning_rate / BEST)
    return 4 + 0.5 * octaves**2 - 0.2 * setting.clip_index + 0.1 * seed


def is_dead(setting):
    return setting.learning_rate >= EDGE * 0.99


def course(setting, seed, dead_score=math.nan):
    """Losses fall, and rise for good where the trial dies; the score of a dead one is NaN."""
    reports = []
    for step in range(REPORT_EVERY, STEPS + 1, REPORT_EVERY):
        is_gone = is_dead(setting) and step > STEPS / 5
        loss = 5.0 if is_gone else 0.15 + 0.85 * 0.5 ** (step / 20)
        score = final_score(setting, seed) * (1 + 2 * 0.5 ** (step / 40))
        held_out = evaluation((loss,) * 4, score_ema=dead_score if is_gone else score)
        is_evaluated = step % EVAL_EVERY == 0
        reports.append(report(step, loss, evaluation=held_out if is_evaluated else None))
    return Course(
        setting=setting,
        facts=facts(
            max_train_steps=STEPS,
            lr_warmup_steps=20,
            report_every=REPORT_EVERY,
            reference=REFERENCE,
            learning_rate=setting.learning_rate,
        ),
        reports=tuple(reports),
    )


def world(**changes):
    settings = [Setting(index, rate) for index in range(len(CLIPS)) for rate in RATES]
    return Blackbox(
        GRID, {(s, seed): course(s, seed, **changes) for s in settings for seed in SEEDS}
    )
