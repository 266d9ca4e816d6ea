from __future__ import annotations

import math
import random

import pytest

from stabsearch.records import Severity, Symptom
from stabsearch.stability.baselines import BASELINES
from tests.chapter import chapter
from tests.stability.baselines.series import FACTS, NUM_BINS, reports, verdicts

RULES = {
    "chapter.loss_increasing": chapter.LOWER_LR,
    "chapter.clip_rate": chapter.CLIPS_TOO_OFTEN,
    "chapter.imbalance": chapter.IMBALANCED,
    "chapter.stuck": chapter.RAISE_LR,
}

FALLING = [1 - 0.004 * i for i in range(200)]
WAVY = [0.6 - 1e-3 * i + 0.1 * math.sin(i) for i in range(200)]


def noisy(values, seed=0):
    rng = random.Random(seed)
    return [value * rng.uniform(0.8, 1.2) for value in values]


def rules_of(made):
    return {v.rule for v in verdicts(BASELINES["chapter"](FACTS), made)}


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (FALLING, set()),
        ([0.3] * 100 + [1.0] * 100, {"chapter.loss_increasing", "chapter.stuck"}),
        ([5.0] * 100 + noisy([1.0] * 100), {"chapter.stuck"}),
        ([math.nan] * 200, set()),
        ([*FALLING[:100], *[math.nan] * 100], set()),
        ([1.0], set()),
    ],
    ids=["falling", "rises", "worse still at first", "nan", "nan later", "one step"],
)
def test_loss_rules(losses, expected):
    assert rules_of(reports(losses)) == expected


@pytest.mark.parametrize(
    ("clipped", "norms", "expected"),
    [
        ([True] * 200, [2.0] * 200, {"chapter.clip_rate"}),
        ([True, False] * 100, [2.0, 0.5] * 100, set()),
        ([True] * 200, [math.nan] * 101 + [2.0] * 99, set()),
    ],
    ids=["always", "half", "nan is not clipped"],
)
def test_clip_rate_rule(clipped, norms, expected):
    """Seen once, at the end: of the whole run."""
    assert rules_of(reports(WAVY, norms, clipped=clipped, report_every=200)) == expected


def test_imbalance_names_the_highest_bin():
    made = reports(WAVY, bin_losses=lambda loss: (loss, 6 * loss, loss, loss))
    (verdict,) = verdicts(BASELINES["chapter"](FACTS), made)

    assert verdict.symptom is Symptom.TIMESTEP_DOMINATION
    assert (verdict.timestep_low, verdict.timestep_high) == (250, 499)


def test_a_bin_needs_ten_losses():
    made = reports(
        WAVY[:8], samples=NUM_BINS, bin_losses=lambda loss: (loss, 6 * loss, loss, loss)
    )

    assert rules_of(made) == set()


def test_only_a_rising_loss_prunes():
    made = reports(
        [0.3] * 100 + [1.0] * 100,
        [2.0] * 200,
        clipped=[True] * 200,
        bin_losses=lambda loss: (loss, 6 * loss, loss, loss),
    )
    said = {v.rule: v.severity for v in verdicts(BASELINES["chapter"](FACTS), made)}

    assert said.keys() == RULES.keys()
    assert {rule for rule, s in said.items() if s is Severity.PRUNE} == {"chapter.loss_increasing"}
    assert said.pop("chapter.loss_increasing") is Severity.PRUNE
    assert set(said.values()) == {Severity.WARN}


@pytest.mark.parametrize("seed", range(8))
def test_says_what_the_chapters_own_function_says_of_the_same_run(seed):
    """After one report on the whole run, with its advice in the chapter's words."""
    rng = random.Random(seed)
    shape = rng.choice([FALLING, WAVY, FALLING[::-1], [0.5] * 200])
    losses = list(shape) if seed % 2 else noisy(shape, seed)
    norms = [rng.uniform(0, 2.2) for _ in losses]
    spread = [rng.uniform(1, 7) for _ in range(NUM_BINS)]
    clipped = [norm > 1 for norm in norms]
    run = chapter.TrainingDiagnostics(
        losses=losses,
        clipped=clipped,
        timestep_losses={i: s * sum(losses) / len(losses) for i, s in enumerate(spread)},
    )
    made = reports(
        losses,
        norms,
        report_every=len(losses),
        clipped=clipped,
        bin_losses=lambda loss: tuple(s * loss for s in spread),
    )
    said = verdicts(BASELINES["chapter"](FACTS), made)

    assert [RULES[v.rule] for v in said] == chapter.analyze_diagnostics(run)
    for verdict in said:
        assert verdict.advice.rstrip(".").lower() in RULES[verdict.rule].lower()
