import re
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.contour import QuadContourSet
from matplotlib.image import imread

from stabsearch.errors import EnvironmentProblem, ResultsError
from stabsearch.recommend.confirm import planned_trials
from stabsearch.recommend.pick import recommend
from stabsearch.recommend.words import SYMPTOM_WORDS
from stabsearch.records import DIVERGENCES, Outcome, Recommendation, Severity, StoppedBy, Symptom
from stabsearch.report.figures import STYLE, draw_map, write_map
from stabsearch.report.looks import (
    MARKER,
    OTHER_SYMPTOM_MARKER,
    RING,
    STOPPED_LOOKS,
    SYMPTOM_MARKERS,
)
from stabsearch.results.frames import load
from tests import synthetic_study as synthetic

RATE_ALONE = {"learning_rate": synthetic.SPACE["learning_rate"]}


def results_of(tmp_path, records, space=None):
    return load(synthetic.write(tmp_path / "demo", records, space))


def without_clip(records):
    return [replace(r, params={"learning_rate": r.params["learning_rate"]}) for r in records]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    results = results_of(folder, synthetic.draw(48, seed=3))
    recommendation = recommend(results)
    paths = write_map(results, recommendation, folder / "figures")
    return results, recommendation, paths


def test_the_map_is_written_as_png_and_svg(drawn):
    _, _, paths = drawn

    assert [path.name for path in paths] == ["map.png", "map.svg"]
    picture = imread(paths[0])
    assert picture.shape[0] > 800
    assert picture.shape[1] > 1200
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 1000


def test_everything_on_the_map_is_named_in_words(drawn):
    _, recommendation, paths = drawn
    text = paths[1].read_text()

    for words in (
        "demo: 48 trials, 28 stable, 15 unstable",
        "stable (28)",
        "unstable: lost progress (4)",
        "unstable: turned NaN or infinite (5)",
        "did not learn (3)",
        "stopped: others were ahead (2)",
        "edge: half of the runs fail",
        "90% interval",
        "5% of the runs fail",
        "recommended",
        "one octave around it",
        "learning_rate",
        "max_grad_norm",
        "lower is better",
        "1e-4",
    ):
        assert words in text
    assert recommendation.params is not None


def test_a_network_killed_by_its_rate_is_drawn_as_unstable(tmp_path):
    records = synthetic.never_learning_above(synthetic.draw(48, seed=3), gated=True)
    results = results_of(tmp_path, records)

    figure = draw_map(results, recommend(results))

    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "unstable: never learned, its rate too high (11)" in labels
    assert "did not learn (3)" in labels
    assert "28 stable, 15 unstable" in figure.get_suptitle()


POOR = [
    Symptom.LOSS_STUCK,
    Symptom.NOISY_TIMESTEPS_HIGH,
    Symptom.TIME_BLIND,
    Symptom.EARLY_TIMESTEP_DOMINATION,
    Symptom.LATE_TIMESTEP_DOMINATION,
    Symptom.TIMESTEP_DOMINATION,
    Symptom.DEAD_TIMESTEPS,
]
"""Penalised, and no divergence."""


def test_a_poor_setting_is_told_apart_from_an_unstable_one(tmp_path):
    records = [
        synthetic.record(i, symptom=str(symptom), severity=Severity.PENALISE)
        for i, symptom in enumerate(POOR)
    ]
    results = results_of(tmp_path, [*synthetic.draw(8), *records])

    with mpl.rc_context(STYLE):
        figure = draw_map(results, recommend(results))
        figure.draw_without_rendering()

    legend = figure.legends[0]
    labels = [text.get_text() for text in legend.get_texts()]
    for symptom in POOR:
        assert f"not called stable: {SYMPTOM_WORDS[symptom]} (1)" in labels
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert legend.get_window_extent().y0 >= figure.bbox.y0


def test_every_symptom_has_a_marker_of_its_own():
    markers = list(SYMPTOM_MARKERS.values())

    assert set(SYMPTOM_MARKERS) == {*DIVERGENCES, Symptom.NOT_LEARNING, *POOR}
    assert len(set(markers)) == len(markers)
    others = {"o", "8", "h", "p", OTHER_SYMPTOM_MARKER}
    others |= {marker for _, marker in STOPPED_LOOKS.values()}
    assert not others & set(markers)


def test_the_edge_is_a_smooth_line(drawn):
    """With a coarse grid over the tilt it was a staircase."""
    results, recommendation, _ = drawn

    lines = draw_map(results, recommendation).axes[0].get_lines()

    for line in lines:
        is_clipped = line.get_ydata() < synthetic.CEILING / 2  # above, the edge is upright
        steps = np.diff(np.log2(line.get_xdata()[is_clipped]))
        assert len(steps) > 10
        assert np.abs(np.diff(steps)).max() < 0.03


def test_where_nothing_was_tried_the_edge_is_drawn_as_a_guess(tmp_path):
    """A search for the edge stays at one clip."""
    at_one = [
        replace(r, params=r.params | {"max_grad_norm": 0.5}) for r in synthetic.draw(24, seed=1)
    ]
    results = results_of(tmp_path, at_one)

    figure = draw_map(results, recommend(results))

    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("nothing was tried" in label for label in labels)
    known = next(line for line in figure.axes[0].get_lines() if line.get_linewidth() == 1.8)
    clips = known.get_ydata()[~np.isnan(known.get_xdata())]
    assert 0.25 <= clips.min() < 0.3
    assert 0.85 < clips.max() <= 1.0


def test_scores_that_are_predicted_where_nothing_was_trained_are_veiled(tmp_path):
    at_one = [
        replace(r, params=r.params | {"max_grad_norm": 0.5}) for r in synthetic.draw(24, seed=1)
    ]
    results = results_of(tmp_path, at_one)

    (veil,) = (
        each
        for each in draw_map(results, recommend(results)).axes[0].collections
        if isinstance(each, QuadContourSet)
    )
    clips = np.concatenate([path.vertices[:, 1] for path in veil.get_paths()])
    # Two octaves from the only clip, to a step of the grid; clips that never act are not one.
    assert clips[clips > 0.5].min() == pytest.approx(2.0, rel=0.15)
    assert clips[clips < 0.5].max() == pytest.approx(0.125, rel=0.15)


def test_clips_that_never_act_speak_for_each_other(tmp_path):
    records = [
        replace(r, params=r.params | {"max_grad_norm": 4 * synthetic.CEILING})
        for r in synthetic.draw(24, seed=1)
    ]
    results = results_of(tmp_path, records)

    figure = draw_map(results, recommend(results))

    known = next(line for line in figure.axes[0].get_lines() if line.get_linewidth() == 1.8)
    clips = known.get_ydata()[~np.isnan(known.get_xdata())]
    assert clips.max() == pytest.approx(max(figure.axes[0].get_ylim()), rel=0.2)
    assert synthetic.CEILING / 2 <= clips.min() < 0.6 * synthetic.CEILING


def test_the_legend_covers_no_point(drawn):
    results, recommendation, _ = drawn
    with mpl.rc_context(STYLE):
        figure = draw_map(results, recommendation)
        figure.draw_without_rendering()

    legend = figure.legends[0].get_window_extent()
    axes = figure.axes[0].get_window_extent()
    assert legend.x0 >= axes.x1
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= figure.bbox.y0


def test_tick_labels_do_not_touch(drawn):
    results, recommendation, _ = drawn
    with mpl.rc_context(STYLE):
        figure = draw_map(results, recommendation)
        figure.draw_without_rendering()

    axes = figure.axes[0]
    boxes = [
        label.get_window_extent()
        for label in axes.get_xticklabels()
        if label.get_text() and label.get_window_extent().width
    ]
    boxes.sort(key=lambda box: box.x0)
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_the_same_study_gives_the_same_files(drawn, tmp_path):
    results, recommendation, paths = drawn

    again = write_map(results, recommendation, tmp_path)

    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert not re.search(rb"<dc:date>", paths[1].read_bytes())


def test_one_parameter_is_drawn_against_the_score(tmp_path):
    results = results_of(tmp_path, without_clip(synthetic.draw(24, seed=1)), RATE_ALONE)

    figure = draw_map(results, recommend(results))

    axes = figure.axes[0]
    assert axes.get_ylabel().startswith("score")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "predicted score" in labels
    assert any(label.startswith("edge") for label in labels)


def dead(setting, learning_rate, symptom):
    is_unstable = symptom in DIVERGENCES
    return synthetic.record(
        setting,
        learning_rate=learning_rate,
        outcome=Outcome.DIVERGED if is_unstable else Outcome.STOPPED,
        stopped_by=StoppedBy.GATE,
        severity=Severity.PRUNE,
        rule="R1c",
        symptom=str(symptom),
        score=5.0,
    )


DEAD = [
    *(dead(i, 0.003 * 2**i, Symptom.NOT_LEARNING) for i in range(4)),
    *(dead(i, 0.003 * 2**i, Symptom.WORSE_THAN_TRIVIAL) for i in range(4, 7)),
]


@pytest.mark.parametrize("has_learned", [False, True])
def test_no_score_is_predicted_where_no_trial_learned(tmp_path, has_learned):
    """A surface through dead trials alone is the score of a dead network, all over the plane."""
    poor = [
        synthetic.record(
            9 + i,
            learning_rate=0.001 / 2**i,
            symptom=str(Symptom.LOSS_STUCK),
            severity=Severity.PENALISE,
        )
        for i in range(4)
    ]
    results = results_of(tmp_path, [*DEAD, *poor * has_learned])

    figure = draw_map(results, recommend(results))

    meshes = [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]
    assert bool(meshes) is has_learned
    assert len(figure.axes) == 1 + has_learned, "a colour bar, if there is something to read"


def test_of_three_parameters_the_rate_and_the_clip_are_drawn(tmp_path):
    space = {"weight_decay": {"uniform": [0.0, 0.1]}} | synthetic.SPACE
    rng = np.random.default_rng(0)
    records = [
        replace(r, params={"weight_decay": float(rng.uniform(0, 0.1))} | r.params)
        for r in synthetic.draw(24)
    ]
    results = results_of(tmp_path, records, space)

    figure = draw_map(results, recommend(results))

    assert figure.axes[0].get_xlabel() == "learning_rate"
    assert figure.axes[0].get_ylabel() == "max_grad_norm"
    assert "\npredicted at weight_decay" in figure.get_suptitle()


def test_categories_other_than_the_pick_s_are_left_out_and_the_title_says_so(tmp_path):
    space = synthetic.SPACE | {"optimizer": {"choice": ["adamw", "sgd"]}}
    records = [
        replace(r, params=r.params | {"optimizer": "sgd" if r.setting % 2 else "adamw"})
        for r in synthetic.draw(32)
    ]
    results = results_of(tmp_path, records, space)

    title = draw_map(results, recommend(results)).get_suptitle()

    assert "16 of 32 trials" in title
    assert "at optimizer" in title


def test_one_trial_is_no_trials(tmp_path):
    results = results_of(tmp_path, [synthetic.record(0)])

    assert ": 1 trial, " in draw_map(results, recommend(results)).get_suptitle()


def test_no_clipping_has_its_own_tick(tmp_path):
    space = synthetic.SPACE | {"max_grad_norm": {"choice": [0.1, 1.0, None]}}
    records = [
        replace(r, params=r.params | {"max_grad_norm": (0.1, 1.0, None)[r.setting % 3]})
        for r in synthetic.draw(24)
    ]
    results = results_of(tmp_path, records, space)

    figure = draw_map(results, recommend(results))
    figure.draw_without_rendering()

    assert "null" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(
    "records",
    [
        [synthetic.record()],
        [synthetic.diverged(), synthetic.diverged(1, learning_rate=0.1)],
        [synthetic.record(), synthetic.diverged(1)],
        [
            synthetic.record(0),
            synthetic.record(1, outcome=Outcome.RUNNING, score=None),
            synthetic.record(2, outcome=Outcome.FAILED, score=None),
            synthetic.record(3, symptom=str(Symptom.NOT_LEARNING), severity=Severity.PENALISE),
            synthetic.diverged(4, symptom=Symptom.CATASTROPHIC_EXCURSION),
            synthetic.record(5, constant_score=None, score=0.01),
        ],
    ],
    ids=["one", "all-unstable", "one-of-each", "every-outcome"],
)
@pytest.mark.parametrize("space", [synthetic.SPACE, RATE_ALONE], ids=["plane", "line"])
def test_few_trials_are_drawn_all_the_same(tmp_path, records, space):
    records = records if space is synthetic.SPACE else without_clip(records)
    results = results_of(tmp_path, records, space)

    figure = draw_map(results, recommend(results))
    figure.draw_without_rendering()

    assert figure.legends[0].get_texts()


def test_short_trials_and_those_of_a_confirmation_are_told_apart(tmp_path):
    study = {"space": synthetic.SPACE, "confirm": {"seeds": 2, "stress_octaves": 1.0}}
    records = synthetic.boundary()
    records += [
        synthetic.record(p.setting, p.seed, params=p.params, purpose=p.purpose)
        for p in planned_trials(records, study)
    ]
    gauge = {"outcome": Outcome.STOPPED, "stopped_by": StoppedBy.GAUGE, "steps": 400}
    records.append(synthetic.record(99, **gauge))
    results = results_of(tmp_path, records)

    with mpl.rc_context(STYLE):
        figure = draw_map(results, recommend(results))
        figure.draw_without_rendering()

    legend = figure.legends[0]
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:6] == [
        "stable (3)",
        "stopped: its rate far from the best (1)",
        "short trial: unstable: lost progress (3)",
        "short trial: stable so far (5)",
        "confirmation: stable (1)",
        "stress test: stable (2)",
    ]
    sizes = {tuple(points.get_sizes()) for points in figure.axes[0].collections}
    short, long, ring = 0.5 * MARKER["s"], MARKER["s"], RING["s"]
    assert {(short,), (long,), (ring,)} <= sizes
    assert legend.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("records", [[], [synthetic.record(params={"optimizer": "sgd"})]])
def test_nothing_numeric_to_draw_is_said(tmp_path, records):
    results = results_of(tmp_path, records, {"optimizer": {"choice": ["adamw", "sgd"]}})
    nothing = Recommendation(params=None, trial_id=None)

    with pytest.raises(ResultsError, match="nothing to draw a map of"):
        write_map(results, nothing, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(drawn, tmp_path):
    results, recommendation, _ = drawn
    (tmp_path / "file").write_text("")

    with pytest.raises(EnvironmentProblem, match=r"file/figures.*--out"):
        write_map(results, recommendation, tmp_path / "file" / "figures")
