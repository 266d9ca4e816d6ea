"""A grid as a trainer, and its oracle against a slow one."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from benchmarks.answer.blackbox import End, Oracle, SeedDraw, Setting, end_of
from benchmarks.truth.labels import Label, Truth
from tests.benchmarks.answer_world import CLIPS, EVAL_EVERY, RATES, SEEDS, STEPS, world
from tests.stability.reports import REFERENCE, evaluation, facts, report


@pytest.mark.parametrize(
    ("learning_rate", "expected"),
    [(1e-9, 0), (1.4e-3, 0), (1.42e-3, 1), (2e-3, 1), (0.0452, 5), (0.0453, 6), (1e9, 7)],
)
def test_a_rate_becomes_the_nearest_in_octaves(learning_rate, expected):
    assert world().snap(learning_rate, 1.0) == Setting(1, RATES[expected])


def test_it_knows_its_space_and_when_it_evaluates():
    blackbox = world()

    assert blackbox.rate_range == (RATES[0], RATES[-1])
    assert blackbox.max_train_steps == STEPS
    assert blackbox.evaluation_steps == tuple(range(EVAL_EVERY, STEPS + 1, EVAL_EVERY))
    assert [blackbox.clip(s) for s in blackbox.settings()] == [c for c in CLIPS for _ in RATES]


def test_repetitions_take_turns_at_the_seeds():
    assert [SeedDraw((3, 4, 7), repetition).of() for repetition in range(5)] == [3, 4, 7, 3, 4]


def test_replicates_of_a_setting_have_different_seeds_while_there_are_any():
    draw = SeedDraw((0, 1, 2), 5)

    assert [draw.of(replicate) for replicate in range(4)] == [2, 0, 1, 2]


def random_ends(seed):
    generator = random.Random(seed)
    rates = sorted({1e-3 * 2 ** (generator.randrange(20) / 2) for _ in range(12)})
    return {
        Setting(clip, float(f"{rate:.3g}")): [
            End(
                score=generator.uniform(4, 20),
                eval_loss=generator.uniform(0.1, 1),
                is_unstable=generator.random() < 0.3,
            )
            for _ in SEEDS
        ]
        for clip in (0, 1)
        for rate in rates
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_against_a_slow_one(seed):
    ends = random_ends(seed)
    oracle = Oracle(ends)

    def mean(setting):
        return sum(end.score for end in ends[setting]) / len(ends[setting])

    def between(below, above, rate):
        share = math.log(rate / below.learning_rate) / math.log(
            above.learning_rate / below.learning_rate
        )
        return mean(below) ** (1 - share) * mean(above) ** share

    def worst(setting):
        around, line = [], [s for s in ends if s.clip_index == setting.clip_index]
        for other in line:
            ratio = other.learning_rate / setting.learning_rate
            if 0.49 < ratio < 2.03:
                around.append(mean(other))
        for rate in (setting.learning_rate / 2, setting.learning_rate * 2):
            for below, above in itertools.pairwise(line):
                if below.learning_rate <= rate <= above.learning_rate:
                    around.append(between(below, above, rate))
        return max(around)

    def is_surrounded(setting):
        rates = [s.learning_rate for s in ends if s.clip_index == setting.clip_index]
        lowest, highest = 2.03 * min(rates), 0.49 * max(rates)
        return lowest * 0.95 <= setting.learning_rate <= highest * 1.05

    for setting, them in ends.items():
        assert oracle.regret(setting) == pytest.approx(mean(setting) / min(map(mean, ends)) - 1)
        assert oracle.worst(setting) == pytest.approx(worst(setting))
        assert oracle.worst_regret(setting) == pytest.approx(
            worst(setting) / min(map(worst, filter(is_surrounded, ends))) - 1
        )
        assert oracle.failures[setting] == sum(end.is_unstable for end in them) / len(them)
        best = min(sum(end.eval_loss for end in other) for other in ends.values())
        assert oracle.loss_regret(setting) == pytest.approx(
            sum(end.eval_loss for end in them) / best - 1
        )


def test_a_gap_in_the_grid_does_not_make_surroundings_better():
    def end(score):
        return [End(score=score, eval_loss=1, is_unstable=False)]

    scores = {0.5: 9.0, 2.0: 4.0, 2.8: 4.1, 4.0: 4.4}  # 1.0 and 1.4 are missing
    oracle = Oracle({Setting(0, rate): end(score) for rate, score in scores.items()})

    assert oracle.worst(Setting(0, 2.0)) == pytest.approx(6.0)  # halfway, of the logarithms
    assert oracle.best_worst == pytest.approx(6.0)


def test_twice_the_rate_is_a_setting_of_the_same_clip_or_the_last_one():
    oracle = Oracle({Setting(c, r): [End(score=1, eval_loss=1, is_unstable=False)]
                     for c in (0, 1) for r in RATES})  # fmt: skip

    assert oracle.doubled(Setting(1, RATES[2])) == Setting(1, RATES[3])
    assert oracle.doubled(Setting(0, RATES[-1])) == Setting(0, RATES[-1])


@pytest.mark.parametrize(
    ("score", "loss", "ends_dead", "expected"),
    [
        (5.0, 0.2, False, (5.0, 0.2)),
        (25.0, 1.5, False, (20.0, 1.0)),
        (math.nan, math.nan, False, (20.0, 1.0)),
        (math.inf, math.inf, True, (20.0, 1.0)),
        (5.0, 0.2, True, (20.0, 1.0)),
    ],
    ids=["alive", "worse than the constant", "nan", "inf", "dead, and its average not yet"],
)
def test_a_dead_trial_counts_as_the_best_constant(score, loss, ends_dead, expected):
    assert (REFERENCE.constant_score, REFERENCE.constant) == (20.0, 1.0)
    truth = Truth(label=Label.UNSTABLE if ends_dead else Label.OK, ends_dead=ends_dead)
    last = report(400, 1.0, evaluation=evaluation((loss,) * 4, score_ema=score))

    end = end_of(truth, facts(), [last])

    assert (end.score, end.eval_loss) == pytest.approx(expected)
    assert end.is_unstable == ends_dead
