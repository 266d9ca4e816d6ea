"""Horizon, clipping in words, sensitivity, what stabilises, and the answer of a boundary study."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from stabsearch.recommend.choice import choice_of
from stabsearch.recommend.confirm import planned_trials, seeds_bound
from stabsearch.recommend.describe import describe, to_json
from stabsearch.recommend.hazard import fail_bound, poisson_limit
from stabsearch.recommend.pick import edge_precision, recommend, recommend_from
from stabsearch.recommend.sensitivity import mean_excess
from stabsearch.recommend.words import number
from stabsearch.records import Outcome, Purpose, Severity, StoppedBy, Symptom
from stabsearch.results.frames import load
from tests import synthetic_study as synthetic

ADAMW = {"clipping": "global_norm", "optimizer": "adamw"}
STUDY = {"space": synthetic.SPACE, "trainer": ADAMW}
STEPS = synthetic.STEPS
RATE_ONLY = {"learning_rate": {"log_uniform": [1e-4, 0.3]}}


def unstable(setting, rate, **changes):
    params = {"learning_rate": rate, "max_grad_norm": 1.0}
    return synthetic.diverged(setting, params=params, **changes)


# --- horizon ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "expected"), [(0, 2.996), (1, 4.744), (3, 7.754), (10, 16.962)]
)
def test_the_upper_limit_of_a_poisson_mean(events, expected):
    """Half of the 95% quantile of chi-square with 2 (events + 1) degrees of freedom."""
    assert poisson_limit(events) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("events", "clean", "steps", "expected"),
    [
        (0, 50_400, 8_000, 0.38),
        (0, 0, 8_000, 1.0),
        (0, 10**9, 8_000, 0.0),
        (2, 50_400, 8_000, 0.63),
    ],
)
def test_the_bound_over_a_horizon(events, clean, steps, expected):
    """science.md 4.1-4: 0 events in 50,400 clean steps -> at most 38% over 8,000 steps."""
    assert fail_bound(events, clean, steps) == pytest.approx(expected, abs=0.005)


GUARDED = {"clip_rate": 0.01}
UNGUARDED = {"clip_rate": 0.0, "grad_norm_median": 0.1}


def horizon(records, steps=50_000):
    return recommend_from(records, STUDY | {"horizon_steps": steps})


@pytest.mark.parametrize("change", [GUARDED, UNGUARDED], ids=["guarded", "unguarded"])
def test_trials_between_the_setting_and_the_safe_side_count_where_clipping_guards(change):
    """The best score is at 4e-3; stable trials reach far above it, and some below."""
    rates = np.geomspace(1e-3, 0.032, 11)
    records = [
        synthetic.record(n, learning_rate=float(rate), score=1 + abs(n - 4), **change)
        for n, rate in enumerate(rates)
    ]
    records += [unstable(20 + n, 0.05 * 1.3**n) for n in range(6)]

    answer = horizon(records)

    own, safe = answer.params["learning_rate"], answer.edge.learning_rate_safe
    counted = [rate for rate in rates if own <= rate <= safe] if change is GUARDED else [own]
    assert 1 < sum(rate >= own for rate in rates) < 11
    assert len(counted) == 1 or change is GUARDED
    assert answer.horizon.events == 0
    assert answer.horizon.clean_steps == len(counted) * STEPS
    assert answer.horizon.p_fail_bound == pytest.approx(
        1 - math.exp(-2.9957 * 50_000 / (len(counted) * STEPS)), abs=1e-4
    )


def test_a_failure_at_a_lower_rate_is_an_event_and_one_beyond_the_edge_is_not():
    records = [
        synthetic.record(n, learning_rate=1e-3 * 1.3**n, score=2 - n / 10, **GUARDED)
        for n in range(8)
    ]
    beyond = [unstable(20 + n, 0.1 * 2**n) for n in range(4)]
    lower = unstable(30, 2e-4, verdict_step=300)

    clean, dirty = horizon([*records, *beyond]), horizon([*records, *beyond, lower])

    assert clean.horizon.events == 0
    assert dirty.horizon.events == 1
    assert dirty.horizon.p_fail_bound > clean.horizon.p_fail_bound or (
        clean.horizon.p_fail_bound > 0.999
    )


def test_without_an_edge_other_clips_vouch_for_nothing():
    """Under SGD a step at a fourth of the clip is no nearer to the edge for a higher rate."""
    own = synthetic.record(0, learning_rate=0.01, score=1.0, **GUARDED)
    others = [
        synthetic.record(
            1 + n, learning_rate=0.02 * 2**n, max_grad_norm=0.01, score=3.0, **GUARDED
        )
        for n in range(4)
    ]
    higher = synthetic.record(9, learning_rate=0.02, score=3.0, **GUARDED)
    study = {"space": synthetic.SPACE, "trainer": {"clipping": "global_norm", "optimizer": "sgd"}}
    study["horizon_steps"] = STEPS

    alone, both = (
        recommend_from(them, study) for them in ([own, *others], [own, *others, higher])
    )

    assert alone.edge is None
    assert alone.horizon.clean_steps == STEPS
    assert both.horizon.clean_steps == 2 * STEPS


def test_without_a_horizon_there_is_no_such_line():
    assert recommend_from(synthetic.draw(24), STUDY).horizon is None


# --- clipping ---------------------------------------------------------------------------------

CLIP_WORDS = [
    ("adamw", "global_norm", 1.0, 0.02, 0.5, "a guard: it acts on 2.0% of the steps"),
    ("adamw", "global_norm", 1.0, 0.0, 0.5, "a guard: it never had to act"),
    ("adamw", "global_norm", 1.0, 0.0, 0.05, "no guard: max_grad_norm 1 never acted, at 20 times"),
    ("adamw", "global_norm", 1.0, 0.3, 2.0, "inside the gradient distribution: it acts on 30%"),
    ("adamw", "global_norm", 1.0, 1.0, 9.0, "normalised-gradient mode: it acts on >99.9%"),
    (
        "adamw",
        "global_norm",
        None,
        0.0,
        0.5,
        "none: gradients are not clipped; a max_grad_norm of",
    ),
    (
        "adamw",
        "none",
        1.0,
        0.0,
        0.5,
        "none: gradients are not clipped; clipping global_norm with a max_grad_norm of 2 or",
    ),
    ("adamw", "agc", 1.0, 0.0, 0.5, "no guard: clipping agc never acted"),
    ("adamw", "agc", 1.0, 0.02, 0.5, "a guard: it acts on 2.0%"),
    ("sgd", "global_norm", 1.0, 1.0, 9.0, "the clip is the step size: it acts on >99.9%"),
    ("sgd", "global_norm", 1.0, 0.02, 0.5, "a guard: it acts on 2.0%"),
]


@pytest.mark.parametrize(
    ("optimizer", "clipping", "threshold", "clip_rate", "norm", "expected"), CLIP_WORDS
)
def test_what_clipping_does(optimizer, clipping, threshold, clip_rate, norm, expected):
    study = {
        "space": {"learning_rate": synthetic.SPACE["learning_rate"]},
        "trainer": {"optimizer": optimizer, "clipping": clipping, "max_grad_norm": threshold},
    }
    record = synthetic.record(
        params={"learning_rate": 1e-3}, clip_rate=clip_rate, grad_norm_median=norm
    )

    answer = recommend_from([record], study)

    assert answer.clip_meaning.startswith(expected)
    assert f"CLIPPING         {expected}" in describe(answer)


@pytest.mark.parametrize(
    ("domain", "clips", "expected"),
    [
        ({"choice": [0.1, 1.0, 4.0, None]}, [0.1, 1.0, 4.0, None], [0.1, 1.0, 4.0]),
        ({"choice": [0.1, 1.0]}, [0.1, 1.0], [0.1, 1.0]),
        ({"log_uniform": [0.01, 100]}, [0.05, 0.5, 50.0], [0.05, 0.5, 2.0]),
    ],
    ids=["choice", "choice-below-the-ceiling", "range"],
)
def test_the_edge_at_a_handful_of_clips(domain, clips, expected):
    """Gradients are 0.5: from 2 on no clip acts, and all are one."""
    study = STUDY | {"space": synthetic.SPACE | {"max_grad_norm": domain}}
    records = [
        (synthetic.diverged if rate > synthetic.edge(clip) else synthetic.record)(
            10 * n + m,
            params={"learning_rate": rate, "max_grad_norm": clip},
            **({} if rate > synthetic.edge(clip) else {"score": 1.0 if clip == 0.5 else 2.0}),
        )
        for n, clip in enumerate(clips)
        for m, rate in enumerate(np.geomspace(1e-3, 0.1, 6).tolist())
    ]

    edges = recommend_from(records, study).edges

    assert [each.max_grad_norm for each in edges] == expected
    rates = [each.edge.learning_rate for each in edges]
    assert rates == sorted(rates)


# --- sensitivity ------------------------------------------------------------------------------


def test_the_mean_excess_is_an_integral_over_log_rate():
    octaves = np.linspace(-4, 4, 401)

    assert mean_excess(octaves, 0.3 + 0.1 * octaves**2) == pytest.approx(0.1 * 16 / 3, rel=1e-3)
    assert mean_excess(octaves, np.full(401, 0.7)) == 0


@pytest.mark.parametrize("width", [0.02, 0.1])
def test_a_sharper_valley_is_more_sensitive(width):
    """Loss 0.2 + width (octaves from 1e-3)^2, at most 1; nothing unstable; u = 0.1."""
    space = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    rates = np.geomspace(1e-4, 1e-2, 14)
    losses = np.minimum(0.2 + width * np.log2(rates / 1e-3) ** 2, 1.0)
    records = [
        synthetic.record(
            n, params={"learning_rate": float(rate)}, score=float(loss), eval_loss=float(loss)
        )
        for n, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]

    found = recommend_from(records, STUDY | {"space": space}).lr_sensitivity

    octaves = np.linspace(math.log2(1e-4), math.log2(1e-2), 2001)
    truth = np.minimum(0.2 + width * (octaves - math.log2(1e-3)) ** 2, 1.0)
    assert found == pytest.approx(mean_excess(octaves, truth) / synthetic.UNIT, rel=0.1)


def test_what_no_trial_was_near_is_neither_nearly_as_good_nor_part_of_the_sensitivity():
    """Four rates within two octaves say nothing of a range of thirteen."""
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-1]}}
    records = [
        synthetic.record(n, params={"learning_rate": rate}, score=1.5, eval_loss=0.3)
        for n, rate in enumerate([0.01, 0.015, 0.025, 0.04])
    ]
    short = replace(
        synthetic.record(4, params={"learning_rate": 1e-4}, score=40.0), **synthetic.SHORT
    )
    answer = recommend_from([*records, short], STUDY | {"space": space})

    assert answer.region_low == pytest.approx(1e-4)
    assert answer.plateau_low >= 0.01 / 2
    assert answer.plateau_high <= 0.04 * 2
    assert answer.lr_sensitivity is None


@pytest.mark.parametrize("missing", [{"loss_unit": None}, {"constant_loss": None}])
def test_without_units_no_sensitivity_is_given(missing):
    records = [replace(r, **missing) for r in synthetic.draw(24)]

    assert recommend_from(records, STUDY).lr_sensitivity is None


# --- what stabilises --------------------------------------------------------------------------


def with_optimizers(seed, octaves, trials=96):
    """The edge of ``lion`` lies so many octaves above that of ``adam``."""
    rng = np.random.default_rng(seed)
    records = []
    for n in range(trials):
        kind = ("adam", "lion")[n % 2]
        rate = float(np.exp(rng.uniform(math.log(1e-4), math.log(0.3))))
        beyond = rate > 0.01 * 2 ** (octaves * (kind == "lion"))
        make = synthetic.diverged if beyond else synthetic.record
        records.append(make(n, params={"learning_rate": rate, "kind": kind}))
    return records


KINDS = STUDY | {
    "space": {
        "learning_rate": synthetic.SPACE["learning_rate"],
        "kind": {"choice": ["adam", "lion"]},
    }
}


@pytest.mark.parametrize("octaves", [2.0, -2.0])
def test_a_category_that_moves_the_edge(octaves):
    (found,) = recommend_from(with_optimizers(0, octaves), KINDS).stabilisers

    higher, lower = ("lion", "adam") if octaves > 0 else ("adam", "lion")
    assert (found.param, found.value, found.against) == ("kind", higher, lower)
    assert found.octaves == pytest.approx(2.0, abs=0.5)
    assert 0 < found.octaves_low < 2.0 < found.octaves_high
    assert found.num_trials == 96


@pytest.mark.parametrize(
    ("words", "is_compared"),
    [(("adam", "lion"), True), (("adamw", "sgd"), False), (("sgd", "ASGD"), True)],
)
def test_optimizers_are_compared_where_their_rates_mean_the_same(words, is_compared):
    """The step of SGD is as large as the gradient; the others undo its scale."""
    records = [
        replace(
            record,
            params={
                "learning_rate": record.params["learning_rate"],
                "optimizer": words[record.params["kind"] == "lion"],
            },
        )
        for record in with_optimizers(0, 2.0)
    ]
    space = {"learning_rate": synthetic.SPACE["learning_rate"]}
    space |= {"optimizer": {"choice": list(words)}}
    found = recommend_from(records, STUDY | {"space": space}).stabilisers

    assert [each.param for each in found] == ["optimizer"] * is_compared


def test_a_category_that_does_nothing_is_undecided():
    answer = recommend_from(with_optimizers(0, 0.0), KINDS)

    assert answer.stabilisers[0].octaves_low < 0
    assert "WHAT STABILISES  undecided by these trials: kind" in describe(answer)


def rates_of(records, kind):
    return [r.params["learning_rate"] for r in records if r.params["kind"] == kind]


def test_a_word_under_which_nothing_failed_is_compared_by_its_highest_stable_rate():
    records = with_optimizers(0, 10.0)
    answer = recommend_from(records, KINDS)

    (found,) = answer.stabilisers
    assert (found.value, found.against, found.num_trials) == ("lion", "adam", 96)
    assert (found.nothing_failed, found.nothing_stable) == (True, False)
    assert found.octaves == pytest.approx(
        math.log2(max(rates_of(records, "lion")) / 0.01), abs=0.3
    )
    assert found.octaves_low < found.octaves < found.octaves_high
    assert (
        f"kind lion instead of adam: the edge is at least {found.octaves_low:.1f} octaves "
        f"(x{2**found.octaves_low:.1f}) higher: nothing failed with lion" in describe(answer)
    )


def test_a_word_under_which_nothing_was_stable_is_compared_by_its_lowest_failure():
    records = with_optimizers(0, -10.0)
    answer = recommend_from(records, KINDS)

    (found,) = answer.stabilisers
    assert (found.value, found.against) == ("adam", "lion")
    assert (found.nothing_failed, found.nothing_stable) == (False, True)
    assert found.octaves == pytest.approx(
        math.log2(0.01 / min(rates_of(records, "lion"))), abs=0.3
    )
    assert "higher: nothing was stable with lion" in describe(answer)


@pytest.mark.parametrize(
    ("octaves", "kept"),
    [
        (0.0, lambda rate: rate < 0.005),
        (0.0, lambda rate: rate > 0.02),
        (None, lambda rate: rate < 0.005),
        (None, lambda rate: rate > 0.02),
    ],
    ids=["stable-below-the-edge", "failed-above-it", "both-stable", "both-failed"],
)
def test_a_bound_on_the_wrong_side_says_nothing(octaves, kept):
    """Of lion, or of both, only what lies on one side of the edge was tried."""
    records = [
        record
        for record in with_optimizers(0, 0.0)
        if kept(record.params["learning_rate"])
        or (octaves is not None and record.params["kind"] == "adam")
    ]

    assert recommend_from(records, KINDS).stabilisers == ()


TENTH = synthetic.SHORT


@pytest.mark.parametrize(
    ("trials", "bound"),
    [
        ([(0.2, {})], 0.2),
        ([(0.2, TENTH)], None),
        ([(0.2, TENTH), (0.1, TENTH)], 0.1),
        ([(0.2, TENTH | {"steps": 150}), (0.1, {})], 0.1),
        ([(0.2, {"score": synthetic.CONSTANT_SCORE})], None),
        ([(0.2, {"score": 0.96 * synthetic.CONSTANT_SCORE}), (0.1, {})], 0.1),
    ],
    ids=["full", "one-short", "two-short", "too-short", "learned-nothing", "hardly-learned"],
)
def test_nothing_failed_is_said_only_of_what_would_have_shown_it(trials, bound):
    adam = [r for r in with_optimizers(0, 0.0) if r.params["kind"] == "adam"]
    lion = [
        synthetic.record(200 + n, params={"learning_rate": rate, "kind": "lion"}, **changes)
        for n, (rate, changes) in enumerate(trials)
    ]
    found = recommend_from([*adam, *lion], KINDS).stabilisers

    assert bool(found) is (bound is not None)
    if bound:
        assert found[0].octaves == pytest.approx(math.log2(bound / 0.01), abs=0.3)


def test_under_sgd_a_bound_counts_by_the_step_that_clipping_leaves():
    """All steps of lion were clipped to an eighth: its rates are worth three octaves less."""
    study = KINDS | {"trainer": {"optimizer": "sgd", "clipping": "global_norm"}}
    records = [
        replace(
            record,
            params=record.params
            | {"max_grad_norm": 1.0 if record.params["kind"] == "adam" else 1 / 8},
            clip_coef_mean=1.0 if record.params["kind"] == "adam" else 1 / 8,
        )
        for record in with_optimizers(0, 10.0)
    ]
    study["space"] = KINDS["space"] | {"max_grad_norm": {"choice": [0.125, 1.0]}}

    (found,) = (s for s in recommend_from(records, study).stabilisers if s.param == "kind")

    plain = math.log2(max(rates_of(records, "lion")) / 0.01)
    assert found.octaves == pytest.approx(plain - 3.0, abs=0.5)


def test_a_numeric_parameter_moves_the_edge_between_the_tried_values():
    answer = recommend_from(synthetic.draw(96, seed=1), STUDY)

    (found,) = answer.stabilisers
    clips = [r.params["max_grad_norm"] for r in synthetic.draw(96, seed=1)]
    assert (found.against, found.value) == (min(clips), max(clips))
    truth = math.log2(synthetic.edge(max(clips)) / synthetic.edge(min(clips)))
    assert found.octaves_low < truth < found.octaves_high
    assert found.octaves == pytest.approx(truth, abs=1.0)
    assert "WHAT STABILISES  max_grad_norm" in describe(answer)


def test_the_farthest_comes_first_and_the_block_stays_short():
    names = [f"p{n}" for n in range(7)]
    rng = np.random.default_rng(3)
    records = []
    for n in range(160):
        parts = rng.uniform(0, 1, 7)
        rate = float(np.exp(rng.uniform(math.log(1e-4), math.log(0.3))))
        edge = 0.006 * 2.0 ** float(3 * parts[0] - 2.5 * parts[1] + 2 * parts[2])
        make = synthetic.diverged if rate > edge else synthetic.record
        params = {"learning_rate": rate} | dict(zip(names, parts.tolist(), strict=True))
        records.append(make(n, params=params))
    space = {"learning_rate": synthetic.SPACE["learning_rate"]}
    space |= {name: {"uniform": [0.0, 1.0]} for name in names}

    answer = recommend_from(records, STUDY | {"space": space})

    octaves = [each.octaves for each in answer.stabilisers]
    assert octaves == sorted(octaves, reverse=True)
    found = {each.param: each for each in answer.stabilisers[:3]}
    assert found.keys() == {"p0", "p1", "p2"}
    assert found["p0"].value > 0.9
    assert found["p1"].value < 0.1
    text = describe(answer)
    block = text[text.index("WHAT STABILISES") :].split("\n")
    assert sum(line.startswith((" ", "WHAT")) for line in block[:6]) <= 6
    assert "undecided by these trials:" in text
    assert "recommended values, which each move the edge" in text


DECADES = (
    synthetic.record(0, learning_rate=1e-3),
    synthetic.record(1, learning_rate=1e-2),
    synthetic.diverged(2, learning_rate=0.1),
)
BETAS = {"adam_beta1": {"uniform": [0.0, 0.95]}, "adam_beta2": {"uniform": [0.9, 0.999]}}


@pytest.mark.parametrize(
    ("trials", "beta2", "is_varied", "is_predicted"),
    [(40, (0.95,), False, True), (40, (0.92, 0.98), True, True), (3, (0.92, 0.98), True, False)],
    ids=["held", "varied", "too few for a surface"],
)
def test_a_parameter_that_was_held_is_not_said_to_move_the_edge(
    trials, beta2, is_varied, is_predicted
):
    records = [
        replace(record, params={"learning_rate": rate, "adam_beta1": 0.475, "adam_beta2": betas})
        for n, record in enumerate(synthetic.draw(40, seed=3) if trials > 3 else DECADES)
        for rate, betas in [(record.params["learning_rate"], beta2[n % len(beta2)])]
    ]
    notes = recommend_from(records, STUDY | {"space": RATE_ONLY | BETAS}).notes

    held = "adam_beta1=0.475" + " adam_beta2=0.95" * (not is_varied)
    assert f"Held at {held} in every trial: nothing is known of other values." in notes
    straight = [note for note in notes if "which moves the edge in a straight line" in note]
    assert len(straight) == is_varied
    for note in straight:
        assert ("Scores are predicted over all" in note) is is_predicted
        assert "adam_beta1" not in note


# --- a boundary study -------------------------------------------------------------------------

CONFIRM = {"confirm": {"seeds": 2, "stress_octaves": 1.0}}


@pytest.mark.parametrize("num_full", [1, 2, 3])
def test_few_full_trials_and_many_short_ones_have_an_answer(num_full):
    """Half an octave, one and two below the edge: the nearest is not safe at twice its rate."""
    answer = recommend_from(synthetic.boundary(num_full=num_full), STUDY)

    assert answer.worst_score is None  # too few scores for a surface
    assert answer.edge is not None
    assert abs(math.log2(answer.edge.learning_rate / synthetic.edge(1.0))) < 0.6
    assert answer.score is not None
    if num_full > 1:
        assert answer.p_unstable_doubled <= 0.1
        assert answer.params["learning_rate"] == pytest.approx(synthetic.edge(1.0) / 4)


def test_a_probe_is_never_recommended_and_says_nothing_of_the_score():
    records = synthetic.boundary(num_full=0)
    probes = [replace(r, score=0.01) for r in records]

    answer = recommend_from(probes, STUDY)

    assert answer.params is None
    assert answer.best_trial_id is None


def test_measured_scores_within_5_percent_are_tied_and_the_larger_margin_wins():
    full = [
        synthetic.record(90, learning_rate=1e-3, score=1.04),
        synthetic.record(91, learning_rate=4e-3, score=1.0),
    ]
    probes = synthetic.boundary(num_full=0)

    near = recommend_from([*probes, *full], STUDY)
    far = recommend_from([*probes, replace(full[0], score=1.06), full[1]], STUDY)

    assert near.trial_id == "0090-0"
    assert (
        "ties with it: highest score around it (measured or extrapolated) 1 against 1.04"
        in " ".join(near.notes)
    )
    assert far.trial_id == "0091-0"


@pytest.mark.parametrize(
    ("highest_full", "is_noted"), [(2e-3, True), (8e-3, True), (0.016, False), (0.024, False)]
)
def test_an_edge_that_only_short_trials_have_seen_is_said(highest_full, is_noted):
    """The edge is at 0.03: with a margin of one octave a full trial half-way up has seen it."""
    probes = synthetic.boundary(num_full=0)
    full = [synthetic.record(90, learning_rate=highest_full, score=1.0)]

    answer = recommend_from([*probes, *full], STUDY)

    assert answer.edge.learning_rate == pytest.approx(synthetic.EDGE, rel=0.25)
    note = f"Above learning_rate {number(highest_full)} no trial that was stable trained for more"
    assert (note in " ".join(answer.notes)) is is_noted


def test_the_answer_says_what_short_trials_cost(tmp_path):
    results = load(synthetic.write(tmp_path / "demo", synthetic.boundary(), trainer=ADAMW))

    text = describe(recommend(results), results.trials)

    assert (
        "PROBES           8 short and 3 full trials: 3.8 full trainings' worth of steps; to train "
        "every setting takes 11" in text
    )
    assert "PRUNING" not in text


def test_the_answer_of_a_confirmed_study(tmp_path):
    from stabsearch.recommend.confirm import planned_trials

    records = synthetic.boundary()
    records += [
        synthetic.record(p.setting, p.seed, params=p.params, purpose=p.purpose, score=1.0)
        for p in planned_trials(records, STUDY | CONFIRM)
    ]
    folder = synthetic.write(
        tmp_path / "demo", records, trainer=ADAMW, horizon_steps=9000, **CONFIRM
    )
    results = load(folder)
    answer = recommend(results)

    text = describe(answer, results.trials)

    assert (
        "CONFIRMED        learning_rate 6.3e-3, max_grad_norm 1: stable in 2 of 2 seeds, "
        "in 2 of 2 at twice the rate; at most " in text
    )
    assert "; the confirmation 3.0 full trainings more, in 3 trials" in text
    assert "HORIZON          at most " in text
    plain = to_json(answer)
    assert plain["confirmation"]["p_fail_bound"] == answer.confirmation.p_fail_bound
    assert plain["edge"]["model"] == "logistic"
    assert plain["edges"][0]["edge"]["slope"] == answer.edges[0].edge.slope
    assert plain["horizon"]["clean_steps"] == answer.horizon.clean_steps


def test_wrapped_lines_hold_the_same_words_and_keep_to_the_width(tmp_path):
    results = load(synthetic.write(tmp_path / "demo", synthetic.draw(48, seed=3)))
    answer = recommend(results)

    text, wrapped = (describe(answer, results.trials, width=width) for width in (None, 100))

    assert max(len(line) for line in wrapped.split("\n")) <= 100
    assert wrapped.split() == text.split()
    labels = [line[:17] for line in wrapped.split("\n") if line[:17].strip()]
    assert labels == [line[:17] for line in text.split("\n") if line[:17].strip()]


# --- the margin of the study ------------------------------------------------------------------


def test_a_wider_margin_is_more_cautious_and_the_words_say_which():
    records = synthetic.draw(48, seed=3)

    answers = [
        recommend_from(records, STUDY | {"margin_octaves": octaves})
        for octaves in (0.25, 1.0, 2.0)
    ]

    margins = [answer.margin_octaves for answer in answers]
    assert margins == sorted(margins)
    assert margins[0] < margins[2] - 0.5
    assert all(answer.p_unstable_doubled <= 0.1 for answer in answers)
    assert "at 4 times the rate" in describe(answers[2])
    assert "worst score within 2 octaves" in describe(answers[2])
    assert "at twice the rate" in describe(answers[1])


def test_a_trial_stopped_by_the_gauge_is_named(tmp_path):
    records = synthetic.draw(24)
    records.append(
        synthetic.record(
            99, outcome=Outcome.STOPPED, stopped_by=StoppedBy.GAUGE, steps=400, score=3.0
        )
    )
    results = load(synthetic.write(tmp_path / "demo", records))

    text = describe(recommend(results), results.trials)

    assert "stopped because the gauge read a learning rate far from the best: 1 trial" in text


def test_every_purpose_but_search_and_confirmation_is_no_candidate():
    records = synthetic.draw(24)
    for purpose in (Purpose.STRESS, Purpose.PROBE):
        changed = [*records, synthetic.record(99, score=0.01, purpose=purpose)]
        answer = recommend_from(changed, STUDY)
        assert answer.trial_id != "0099-0"
        assert answer.best_trial_id != "0099-0"


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({1e-3: 10.0, 2e-3: 5.0, 4e-3: 5.2}, 4e-3),
        ({1e-3: 14.6, 2e-3: 8.0, 4e-3: 7.6}, 4e-3),
        ({1e-3: 5.6, 2e-3: 5.0, 4e-3: 5.2}, 2e-3),
    ],
    ids=["a cliff below the middle", "a tie that has it below", "the last of a row"],
)
def test_of_few_measured_settings_what_lies_around_them_counts(scores, best):
    full = [
        synthetic.record(90 + i, learning_rate=rate, score=score)
        for i, (rate, score) in enumerate(scores.items())
    ]

    answer = recommend_from([*synthetic.boundary(num_full=0), *full], STUDY)

    assert answer.params is not None
    assert answer.params["learning_rate"] == best


# --- failure that does not grow with the rate ---------------------------------------------------

INVERTED_STUDY = {"space": RATE_ONLY, "trainer": ADAMW, "horizon_steps": 2000}


def rate_only(number, learning_rate, score=1.0, **changes):
    params = {"learning_rate": float(learning_rate)}
    return synthetic.record(number, params=params, score=score, clip_rate=0.02, **changes)


def inverted(count):
    """Every failure below every stable trial."""
    low, high = np.geomspace(2e-3, 8e-3, count), np.geomspace(0.02, 0.1, count)
    failed = [
        synthetic.diverged(n, params={"learning_rate": float(rate)}) for n, rate in enumerate(low)
    ]
    stable = [
        rate_only(100 + n, rate, 1 + 0.02 * abs(n - count // 2)) for n, rate in enumerate(high)
    ]
    return failed + stable


@pytest.mark.parametrize("count", [8, 16])
def test_no_edge_is_claimed_where_nothing_failed_above(count):
    study = INVERTED_STUDY | {"stop_when": {"edge_within_octaves": 0.25}}
    answer = recommend_from(inverted(count), study)

    assert answer.params["learning_rate"] >= 0.02
    assert (answer.edge, answer.margin_octaves) == (None, None)
    assert answer.is_precise is False
    assert edge_precision(inverted(count), study) is None
    text = describe(answer)
    assert "Failure does NOT grow with the learning rate" in text
    assert "No rate above this setting that was tried fails in half of the runs." in text
    assert "EDGE             not seen, and NOT known as precisely as was asked" in text


def test_clean_steps_at_higher_rates_say_nothing_where_failure_does_not_grow():
    """Nor do failures at other rates: one clean run of 2,000 steps bounds 2,000 steps by 95%."""
    answer = recommend_from(inverted(16), INVERTED_STUDY)

    assert (answer.horizon.clean_steps, answer.horizon.events) == (2000, 0)
    assert answer.horizon.p_fail_bound == pytest.approx(0.95, abs=1e-3)


def test_a_bound_that_allows_every_run_to_fail_is_said_in_words():
    records = [rate_only(0, 4e-3), synthetic.diverged(1, params={"learning_rate": 0.1})]
    answer = recommend_from(records, INVERTED_STUDY | {"horizon_steps": 2_000_000})

    assert "HORIZON          any share of runs may fail within 2,000,000 steps" in describe(answer)


def between_failures():
    """Failures at low rates and at high ones; stable trials between them, and a survivor above."""
    low, high = np.geomspace(1e-3, 8e-3, 12), np.geomspace(0.06, 0.19, 12)
    failed = [unstable(n, float(rate)) for n, rate in enumerate((*low, *high))]
    stable = [
        synthetic.record(30 + n, learning_rate=float(rate), score=1 + 0.1 * n)
        for n, rate in enumerate(np.geomspace(0.02, 0.05, 6))
    ]
    return [*failed, *stable, synthetic.record(80, learning_rate=0.2, score=0.9)]


def test_a_survivor_above_the_failures_is_not_safe_because_nothing_is_known_above_it():
    choice = choice_of(between_failures(), STUDY)
    answer = recommend_from(between_failures(), STUDY)

    survivor = next(c for c in choice.candidates if c.params["learning_rate"] == 0.2)
    assert (survivor.p_doubled, survivor.is_safe) == (None, False)
    assert survivor.risk == pytest.approx(0.5, abs=0.1)
    assert answer.params["learning_rate"] <= 0.05
    assert "No stable setting is likely to survive twice the rate" in " ".join(answer.notes)


def test_many_trials_too_short_to_show_much_are_no_other_side_of_a_process():
    """Together they saw stability; none of them alone did."""
    short = {"outcome": Outcome.RUNNING, "score": None, "steps": int(0.07 * STEPS)}
    records = [unstable(n, 1e-3 * 1.1**n, verdict_step=100) for n in range(6)]
    records += [synthetic.record(9 + n, learning_rate=0.02 * 1.1**n, **short) for n in range(8)]

    landscape = next(iter(choice_of(records, STUDY).landscapes.values()))

    assert landscape.edge is not None
    assert landscape.edge.out_of_order
    assert landscape.fails_by_rate


# --- categories, and settings that were proposed twice ------------------------------------------


def test_a_category_in_which_nothing_failed_has_the_larger_margin():
    """As good as the other one, and stable four octaves further."""
    records = []
    for kind in ("epsilon", "v_prediction"):
        for rate in [*np.geomspace(1e-3, 1.6e-2, 9), 0.03, 0.06, 0.12, 0.25]:
            params = {"learning_rate": float(rate), "prediction_type": kind}
            is_beyond = kind == "epsilon" and rate > 0.02
            ahead = 0.001 * (kind == "v_prediction")
            score = 1.0 + ahead + 0.02 * abs(math.log2(rate / 4e-3))
            records.append(
                synthetic.diverged(len(records), params=params)
                if is_beyond
                else synthetic.record(len(records), params=params, score=score, clip_rate=0.02)
            )
    words = {"prediction_type": {"choice": ["epsilon", "v_prediction"]}}
    answer = recommend_from(records, {"space": RATE_ONLY | words, "trainer": ADAMW})

    assert answer.params["prediction_type"] == "v_prediction"


def test_a_setting_that_was_proposed_again_is_one_setting():
    """The same seed says the same again: no more evidence, and no further round."""
    choices = {"learning_rate": {"choice": [1e-3, 4e-3, 1.6e-2, 6.4e-2]}}
    study = {"space": choices, "trainer": ADAMW, "confirm": {"seeds": 2}}
    once = [
        rate_only(0, 4e-3),
        rate_only(3, 1e-3, 1.2),
        rate_only(4, 1.6e-2, 1.4),
        synthetic.diverged(5, params={"learning_rate": 6.4e-2}),
    ]
    again = [replace(once[0], trial_id=f"000{n}-0", setting=n) for n in (1, 2)]
    again.append(replace(once[3], trial_id="0006-0", setting=6))

    first, second = recommend_from(once, study), recommend_from([*once, *again], study)

    assert second.edge == first.edge
    assert second.params == first.params
    assert {p.setting for p in planned_trials([*once, *again], study)} == {0, 7}


# --- words that must not contradict what was seen -----------------------------------------------


@pytest.mark.parametrize(
    ("clean", "failed", "bound"), [(3, 0, 0.632), (5, 0, 0.451), (3, 2, 0.811), (0, 4, 1.0)]
)
def test_the_bound_of_a_number_of_failures_is_exact(clean, failed, bound):
    """Clopper and Pearson 1934, one-sided."""
    exact = beta.ppf(0.95, failed + 1, clean) if clean else 1.0

    assert seeds_bound(clean, failed) == pytest.approx(exact, abs=1e-6)
    assert seeds_bound(clean, failed) == pytest.approx(bound, abs=1e-3)


def test_a_setting_that_failed_in_some_seeds_is_not_called_clean():
    records = [rate_only(0, 4e-3), synthetic.diverged(9, params={"learning_rate": 0.05})]
    study = {"space": RATE_ONLY, "trainer": ADAMW, "confirm": {"seeds": 5}}
    for planned in planned_trials(records, study):
        is_bad = planned.purpose is Purpose.CONFIRM and planned.seed in (1, 2)
        make = synthetic.diverged if is_bad else synthetic.record
        records.append(
            make(planned.setting, planned.seed, params=planned.params, purpose=planned.purpose)
        )
    notes = " ".join(recommend_from(records, study).notes)

    assert "2 seeds of 5 failed over 2000 steps" in notes
    assert "fewer than 81% of such runs do" in notes
    assert "clean seed" not in notes
    assert "Too few settings" not in notes
    assert "this setting was stable" not in notes


def test_clipping_that_acted_in_one_seed_only_is_no_guard():
    records = [
        replace(rate_only(0, 4e-3), seed=seed, trial_id=f"0000-{seed}", grad_norm_median=0.05,
                clip_rate=5e-4 * (seed == 1), params={"learning_rate": 4e-3, "max_grad_norm": 1.0})
        for seed in range(3)
    ]  # fmt: skip
    study = {"space": synthetic.SPACE, "trainer": ADAMW, "seeds": 3}
    text = describe(recommend_from(records, study))

    assert "CLIPPING         no guard: it acted in 1 of 3 seeds only" in text
    assert "Its gradients are not clipped in practice" in text


def test_scores_of_settings_that_are_nearly_one_say_nothing_of_where_the_score_goes():
    """A hundredth of an octave and a seed's 5% would be a factor of 131 an octave further."""
    records = [rate_only(0, 1e-3, 1.05), rate_only(1, 1e-3 * 2**1e-5, 1.0), rate_only(2, 0.2, 9.0)]

    answer = recommend_from(records, {"space": RATE_ONLY, "trainer": ADAMW})

    assert answer.params["learning_rate"] < 2e-3


def test_without_an_edge_the_region_is_not_one_of_the_recommended_clip():
    records = [
        synthetic.record(n, learning_rate=rate, max_grad_norm=clip, score=1.0 + n)
        for n, (rate, clip) in enumerate([(2e-3, 1.0), (4e-3, 1.0), (0.2, 0.02)])
    ]
    text = describe(recommend_from(records, {"space": synthetic.SPACE, "trainer": ADAMW}))

    region = "STABLE REGION    learning_rate 2e-3 .. 0.2 (where trials were stable, whatever their"
    assert f"{region} max_grad_norm)" in text


def test_without_an_edge_the_region_is_one_of_the_words():
    """Each combination is judged by its own trials."""
    space = KINDS["space"] | {"max_grad_norm": {"choice": [0.1, 1.0]}}
    records = [
        synthetic.record(
            n, params={"learning_rate": rate, "kind": "lion", "max_grad_norm": 1.0}, score=1.0 + n
        )
        for n, rate in enumerate((2e-3, 4e-3))
    ]
    text = describe(recommend_from(records, {"space": space, "trainer": ADAMW}))

    region = "STABLE REGION    learning_rate 2e-3 .. 4e-3 at kind lion"
    assert f"{region} (where trials were stable, whatever their max_grad_norm)" in " ".join(
        text.split()
    ).replace("STABLE REGION", "STABLE REGION   ")


def test_white_data_have_no_sensitivity():
    """u, which it is measured in, is next to nothing there."""
    records = [replace(r, loss_unit=1e-6) for r in synthetic.draw(24)]

    assert recommend_from(records, STUDY).lr_sensitivity is None


def test_short_trials_alone_are_not_called_unstable():
    study = {"space": synthetic.SPACE, "trainer": ADAMW}
    text = describe(recommend_from(synthetic.boundary(num_full=0), study))

    assert "nothing: no setting was stable to the end of its training" in text
    assert "No setting was trained to its end" in text
    assert "No setting was stable in all its seeds" not in text


@pytest.mark.parametrize(
    "rates",
    [{"choice": [1e-3, 2e-3, 3e-3]}, {"uniform": [1e-3, 3e-3]}, {"log_uniform": [1e-3, 3e-3]}],
    ids=["choice", "uniform", "log"],
)
def test_a_learning_rate_has_octaves_around_it_however_it_is_searched(rates):
    """The best score lies beside the worst: within an octave of it."""
    scores = {1e-3: 1.3, 2e-3: 1.0, 3e-3: 3.0}
    records = [rate_only(n, rate, score) for n, (rate, score) in enumerate(scores.items())]
    answer = recommend_from(records, {"space": {"learning_rate": rates}, "trainer": ADAMW})

    assert answer.params["learning_rate"] == 1e-3


def test_of_equal_settings_the_training_that_went_farthest_counts():
    """A sampler proposed 2e-3 twice: others outran the first, the second came to its end."""
    outrun = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.RANK, "steps": STEPS // 4}
    records = [
        synthetic.record(0, learning_rate=2e-3, score=1.5, **outrun),
        synthetic.record(1, learning_rate=1e-3, score=1.2),
        synthetic.record(2, learning_rate=4e-3, score=1.4),
        synthetic.record(5, learning_rate=2e-3, score=0.8),
    ]

    for them in (records, records[::-1]):
        answer = recommend_from(them, STUDY)
        assert answer.params["learning_rate"] == 2e-3
        assert answer.trial_id == "0005-0"
        assert answer.price_of_safety == 0


# --- sentences that were wrong ------------------------------------------------------------------


def test_an_unsafe_setting_of_a_small_study_has_no_combinations_that_were_passed_over():
    records = [synthetic.record(n, learning_rate=0.01 * 1.2**n) for n in range(2)]
    records += [unstable(2 + n, 0.0144 * 1.2**n) for n in range(2)]
    notes = " ".join(recommend_from(records, STUDY).notes)

    assert "No stable setting is likely to survive twice the rate" in notes
    assert "Combinations" not in notes


@pytest.mark.parametrize(("lowest_stable", "is_safe"), [(0.01, False), (1e-4, True)])
def test_whether_the_setting_is_safe_is_a_field(lowest_stable, is_safe):
    stable = np.geomspace(lowest_stable, 0.012, 4)
    records = [synthetic.record(n, learning_rate=float(rate)) for n, rate in enumerate(stable)]
    records += [unstable(6 + n, 0.0144 * 1.1**n) for n in range(4)]

    assert recommend_from(records, STUDY).is_safe is is_safe


def confirmed_before_failures_were_seen(num_stress=2, stress=0.5):
    """0.01 was the answer, and held under stress; then failures came at 1.2 times that rate."""
    study = {"space": RATE_ONLY, "trainer": ADAMW}
    study["confirm"] = {"seeds": 2, "stress_octaves": stress}
    search = [rate_only(0, 0.01), rate_only(1, 0.0025, 1.5), rate_only(2, 0.0007, 1.9)]
    confirming = [
        rate_only(0, 0.01, seed=1, trial_id="0000-1", purpose=Purpose.CONFIRM),
        *(
            rate_only(3, 0.01 * 2**stress, seed=n, trial_id=f"0003-{n}", purpose=Purpose.STRESS)
            for n in range(num_stress)
        ),
    ]
    failed = [
        synthetic.diverged(10 + n, params={"learning_rate": rate})
        for n, rate in enumerate(0.01 * 2**stress * f for f in (1.2, 1.41, 1.56, 2.1))
    ]
    return recommend_from([*search, *confirming, *failed], study)


@pytest.mark.parametrize(
    ("num_stress", "why"), [(2, "it held in its confirmation"), (1, "its confirmation goes on")]
)
def test_a_setting_that_is_kept_for_its_confirmation_is_not_called_the_least_risky(
    num_stress, why
):
    answer = confirmed_before_failures_were_seen(num_stress)
    (note,) = (note for note in answer.notes if "likely to survive" in note)

    assert answer.trial_id == "0000-0"
    assert note.startswith("This setting is not likely to survive twice the rate")
    assert f"it stays because {why}. Safer by the model is setting 1" in note


def test_a_stress_test_that_held_where_the_model_doubts_is_said():
    answer = confirmed_before_failures_were_seen(stress=1.0)
    (note,) = (note for note in answer.notes if "likely to survive" in note)

    assert note.startswith("By the model this setting is not likely to survive twice the rate")
    assert note.endswith("In its stress test, at twice the rate, it did.")
    assert "least risky" not in note


def test_that_nothing_is_safe_is_not_said_of_settings_that_lack_seeds():
    """The one at 1e-3 is safe, and another of its seeds has not ended."""
    records = [
        synthetic.record(n, seed, learning_rate=rate)
        for n, rate in enumerate((0.01, 1e-3))
        for seed in range(2 - n)
    ]
    records += [unstable(2 + n, 0.0144 * 1.1**n) for n in range(4)]
    notes = " ".join(recommend_from(records, STUDY | {"seeds": 2}).notes)

    assert "No stable setting that may still be recommended is likely to survive twice" in notes


def test_which_setting_was_the_only_one_trained_to_its_end_is_said_with_its_words():
    space = synthetic.SPACE | {"optimizer": {"choice": ["adamw", "lion"]}}
    records = [
        replace(r, setting=r.setting + 50 * n, params=r.params | {"optimizer": optimizer},
                trial_id=f"{r.setting + 50 * n:04d}-0", score=(r.score or 0) + n)
        for n, optimizer in enumerate(space["optimizer"]["choice"])
        for r in synthetic.boundary(clips=(1.0,), num_full=1)
    ]  # fmt: skip
    notes = " ".join(recommend_from(records, {"space": space, "trainer": ADAMW}).notes)

    assert "One setting with optimizer = adamw was trained to its end." in notes


def looking(records, score_of):
    """The same, with the score of every trial that did not fail at the end of the short ones."""
    return [
        r
        if r.is_unstable
        else replace(r, looks=(synthetic.look(score_of(r.params["learning_rate"])),))
        for r in records
    ]


NEAR_THE_BEST = "That it is near the best is what short trials say"


def test_how_one_of_two_that_were_trained_to_their_end_was_chosen_is_said():
    records = looking(synthetic.boundary(clips=(1.0,), num_full=2), synthetic.score)
    notes = " ".join(recommend_from(records, STUDY).notes)

    assert "2 stable settings were trained to their end: of those that are safe" in notes
    assert NEAR_THE_BEST in notes
    assert "Too few settings" not in notes


@pytest.mark.parametrize(
    ("score_of", "expected"),
    [
        (lambda rate: 1 + 0.4 * abs(math.log2(rate / 3e-3)), NEAR_THE_BEST),
        (lambda rate: 1 + 0.4 * abs(math.log2(rate / 5.5e-3)), NEAR_THE_BEST),
        (
            lambda rate: 1 + 0.4 * abs(math.log2(rate / 0.02)),
            "That it is near the best cannot be said: by step 200 its score was 2.09, and 1.12 "
            "that of trial 0003-0 at learning_rate 0.025; it was placed as far below the edge as "
            "the study asks.",
        ),
        (
            lambda rate: 1 + 0.4 * abs(math.log2(rate / 1e-4)),
            "That it is near the best cannot be said: by step 200 its score was 2.96, and 1.07 "
            "that of trial 0009-0 at learning_rate 1.1e-4.",
        ),
        (lambda rate: None, "Whether it is near the best no short trial says: none has a score"),
    ],
    ids=["there", "an octave off", "beyond what is safe", "far below", "without scores"],
)
def test_that_a_setting_is_near_the_best_is_said_only_where_short_trials_say_so(
    score_of, expected
):
    """One setting was trained to its end, three octaves below the edge."""
    records = [
        *synthetic.boundary(clips=(1.0,), num_full=0),
        synthetic.record(9, learning_rate=1.12e-4, **synthetic.SHORT),
        synthetic.record(90, learning_rate=3e-3, score=1.0),
    ]
    notes = " ".join(recommend_from(looking(records, score_of), STUDY).notes)

    assert f"One setting was trained to its end. {expected[:20]}" in notes
    assert expected in notes
    assert (NEAR_THE_BEST in notes) is (expected is NEAR_THE_BEST)


def test_a_later_look_counts_more_than_an_early_one():
    """By step 200 twice its rate and a half is ahead; by step 500 it is behind."""
    early = [synthetic.look(5.0), synthetic.look(4.0)]
    late = [synthetic.look(3.0, step=500), synthetic.look(3.5, step=500)]
    own, other = ((early[n], late[n]) for n in range(2))
    records = [
        *synthetic.boundary(clips=(1.0,), num_full=0),
        synthetic.record(9, learning_rate=7.5e-3, **(synthetic.SHORT | {"steps": 500})),
        synthetic.record(90, learning_rate=3e-3, score=1.0, looks=own),
    ]
    records[-2] = replace(records[-2], looks=other)

    assert NEAR_THE_BEST in " ".join(recommend_from(records, STUDY).notes)


def test_the_one_that_is_left_of_several_was_not_chosen_by_scores():
    """The other two look past the timestep."""
    poor = {"severity": Severity.PENALISE, "rule": "R6", "symptom": str(Symptom.TIME_BLIND)}
    records = [
        replace(r, **poor) if r.setting in (5, 6) else r
        for r in synthetic.boundary(clips=(1.0,), num_full=3)
    ]
    notes = " ".join(recommend_from(records, STUDY).notes)

    assert "Of 3 settings that were trained to their end this one alone is left." in notes
    assert "Too few settings" not in notes


def test_a_poor_seed_of_a_confirmation_is_not_called_unstable():
    poor = {"severity": Severity.PENALISE, "rule": "R6", "symptom": str(Symptom.TIME_BLIND)}
    records = [*synthetic.boundary(num_full=0)]
    records += [
        synthetic.record(90, seed, learning_rate=4e-3, purpose=purpose, **changes)
        for seed, purpose, changes in [
            (0, Purpose.SEARCH, {}), (1, Purpose.CONFIRM, {}), (2, Purpose.CONFIRM, poor)
        ]
    ]  # fmt: skip
    study = STUDY | {"confirm": {"seeds": 3, "stress_octaves": 0}}

    assert "stable in 2 of 3 seeds (1 not stable)" in describe(recommend_from(records, study))


@pytest.mark.parametrize(
    ("changes", "meaning"),
    [
        ({"clipping": "agc"}, "no guard: clipping agc never acted"),
        ({"clipping": "per_parameter_norm"}, "no guard: clipping per_parameter_norm never acted"),
        ({"grad_norm_type": "inf"}, "no guard: clipping global_norm never acted"),
    ],
    ids=str,
)
def test_no_threshold_is_named_where_another_norm_or_none_is_clipped_by(changes, meaning):
    trainer = ADAMW | {"max_grad_norm": 4.0} | changes
    record = synthetic.record(params={"learning_rate": 1e-3}, **UNGUARDED)
    answer = recommend_from([record], {"space": RATE_ONLY, "trainer": trainer})

    assert answer.clip_meaning == meaning
    assert "not clipped in practice" in " ".join(answer.notes)
    assert "would be a guard" not in " ".join(answer.notes)


def test_a_stress_test_is_no_extrapolation_beyond_the_searched_range():
    space = {"learning_rate": {"log_uniform": [1e-4, 0.01]}}
    records = [rate_only(0, 8e-3)]
    for seed in range(3):
        beyond = synthetic.diverged(1, seed, params={"learning_rate": 0.016})
        records.append(replace(beyond, purpose=Purpose.STRESS))
    answer = recommend_from(records, {"space": space, "trainer": ADAMW})

    assert 0.01 < answer.edge.learning_rate < 0.016
    assert "extrapolation" not in " ".join(answer.notes)


def test_a_stable_setting_without_a_score_is_not_said_to_have_failed():
    answer = recommend_from([synthetic.record(0, score=None)], STUDY)

    assert answer.params is None
    assert answer.notes == ("Setting 0 was stable in all its seeds, but its score is not finite.",)


@pytest.mark.parametrize("has_failed", [False, True], ids=["stress tests held", "and failed"])
def test_trials_of_a_rate_that_is_not_searched_name_no_rate(tmp_path, has_failed):
    """Stress tests alone have one: others of their group ran at the trainer's."""
    lost = {
        "severity": Severity.PENALISE, "rule": "R1c", "symptom": str(Symptom.LOST_PROGRESS),
        "verdict_step": 400,
    }  # fmt: skip
    space = {"weight_decay": {"log_uniform": [1e-4, 1.0]}}
    own = synthetic.record(0, params={"weight_decay": 0.01})
    failed = synthetic.record(1, params={"weight_decay": 0.1}, **lost)
    stress = replace(own, params=own.params | {"learning_rate": 2e-3}, purpose=Purpose.STRESS,
                     setting=2, trial_id="0002-0", **(lost if has_failed else {}))  # fmt: skip
    path = synthetic.write(tmp_path / "demo", [own, failed, stress], space=space, trainer=ADAMW)

    text = describe(recommend(load(path)), load(path).trials)

    trials = "2 trials" if has_failed else "1 trial"
    assert f"lost progress: {trials}, at step 400" in text
