"""``explain`` and ``replay`` on three real trials, and on trials of every other kind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from stabsearch.cli import explain_commands
from stabsearch.errors import ResultsError, SpecError
from stabsearch.records import Outcome, Severity, StoppedBy
from stabsearch.results.store import StudyStore
from stabsearch.search.ledger import LiveTrial, make_trial_id
from stabsearch.spec import StudySpec
from stabsearch.stability.judges import make_judge
from stabsearch.stability.replay import verdicts_of
from stabsearch.training.trainer import Trainer
from tests import synthetic_study as synthetic
from tests.synthetic_study import look

runner = CliRunner()

SETTINGS = ((0, 0, 3e-3), (1, 0, 1.0), (1, 1, 1.0))
"""Setting, seed, learning rate: one trial that learns, two that diverge."""


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    explain_commands.add_to(app)
    return app


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A study as a search leaves it, without Ray."""
    spec = StudySpec.model_validate(
        {
            "name": "real",
            "space": {"learning_rate": {"log_uniform": [1e-3, 2.0]}},
            "trainer": {
                "model": {"name": "mlp", "width": 32, "num_blocks": 1},
                "data": {"name": "mixture"},
                "max_train_steps": 400,
                "report_every": 10,
                "eval_every": 40,
                "eval_samples": 400,
                "batch_size": 64,
            },
            "seeds": 2,
        }
    )
    store = StudyStore(tmp_path_factory.mktemp("results") / "real")
    store.create(spec.model_dump(mode="json"), spec.fingerprint())
    for setting, seed, learning_rate in SETTINGS:
        params = {"learning_rate": learning_rate}
        trainer = Trainer(spec.trainer_for(params), seed)
        judge, judged = make_judge(spec.analyzer.model_dump(), trainer.facts), []
        while not trainer.is_finished and not is_pruned(judged):
            judged.append(judge.judge(trainer.train_window()))
        trial = LiveTrial(
            trial_id=make_trial_id(setting, seed),
            setting=setting,
            seed=seed,
            params=params,
            max_train_steps=400,
            facts=trainer.facts,
            reports={item.report.step: item.report for item in judged},
        )
        trial.add_verdicts(verdicts_of(judged))
        ending = (Outcome.COMPLETED, StoppedBy.NOBODY)
        if is_pruned(judged):
            ending = (Outcome.DIVERGED, StoppedBy.GATE)
        store.end_trial(
            trial.record(*ending), trainer.facts, trial.ordered_reports(), verdicts_of(judged)
        )
    return store.path


def is_pruned(judged):
    return any(v.severity is Severity.PRUNE for v in verdicts_of(judged))


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """Trials of every ending, with the values that JSON and Parquet may spoil."""
    records = [
        synthetic.record(0),
        synthetic.diverged(1, symptom="non_finite"),
        synthetic.diverged(2, outcome=Outcome.STOPPED, symptom="not_learning"),
        synthetic.record(3, outcome=Outcome.STOPPED, stopped_by=StoppedBy.RANK, steps=500),
        synthetic.record(4, outcome=Outcome.RUNNING, steps=100, ended_at=None),
        synthetic.record(5, severity=Severity.PENALISE, rule="R7", symptom="dead_timesteps"),
    ]
    path = synthetic.write(tmp_path_factory.mktemp("results") / "kinds", records, with_tables=True)
    StudyStore(path).write_trials(
        [
            synthetic.record(
                6, outcome=Outcome.FAILED, steps=0, reason="Traceback\n  line 3\nValueError: no"
            ),
            synthetic.record(7, outcome=Outcome.RUNNING, steps=0, ended_at=None, score=None),
        ]
    )
    return path


def run(app, *words):
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def files_of(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


# --- explain ----------------------------------------------------------------------------------


def test_a_pruned_trial_is_explained(app, real):
    output = run(app, "explain", real, "0001-0")

    for expected in (
        "TRIAL       0001-0: setting 1, seed 0",
        "PARAMS      learning_rate=1",
        "OUTCOME     PRUNED at step",
        "of 400 by the gate: R1",
        "C0 1",
        "progress: of the",
        "prune  R1",
        "where      timesteps ",
        "number     ",
        "advice     Lower the learning rate",
        "would have let it go on",
        "PRESETS     strict: pruned",
    ):
        assert expected in output


def test_a_stable_trial_is_explained(app, real):
    output = run(app, "explain", real, "0-0")

    assert "OUTCOME     STABLE: trained all 400 steps" in output or "POOR" in output
    assert "held-out loss" in output


@pytest.mark.parametrize("name", ["1", "0001", " 1 "])
def test_a_setting_means_all_of_its_seeds(app, real, name):
    output = run(app, "explain", real, name)

    assert output.startswith("Setting 1 has 2 seeds: 0, 1.")
    assert "0001-0: setting 1, seed 0" in output
    assert "0001-1: setting 1, seed 1" in output


def test_a_setting_with_one_seed_needs_no_seed(app, real):
    assert run(app, "explain", real, "0").startswith("TRIAL       0000-0")


def test_explain_json_has_every_number(app, real):
    answer = json.loads(run(app, "explain", real, "1", "--json"))
    trial = answer["trials"][0]
    verdict = trial["verdicts"][-1]

    assert [t["trial"]["trial_id"] for t in answer["trials"]] == ["0001-0", "0001-1"]
    assert verdict["severity"] == "prune"
    assert verdict["limit"].startswith(verdict["rule"])
    assert verdict["timesteps"].startswith("timesteps ")
    assert {change["name"] for change in verdict["changes"]} or verdict["otherwise"]
    assert trial["presets"]["strict"]["ending"] == "pruned"
    assert trial["survival"]


@pytest.mark.parametrize("trial", range(8))
def test_every_kind_of_trial_can_be_explained(app, every_kind, trial):
    assert f"TRIAL       {trial:04d}-0" in run(app, "explain", every_kind, trial)
    json.loads(run(app, "explain", every_kind, trial, "--json"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A short trial that had learned nothing by its end, where one at a lower rate had."""
    records = [
        synthetic.record(
            number, learning_rate=rate, **synthetic.SHORT, score=score, looks=(look(score),)
        )
        for number, (rate, score) in enumerate([(1e-3, 4.0), (0.1, 6.2)])
    ]
    path = tmp_path_factory.mktemp("results") / "compared"
    return synthetic.write(path, records, with_tables=True)


def test_why_a_trial_counts_as_unstable_that_no_rule_calls_so_is_said(app, compared):
    output = run(app, "explain", compared, "1")
    reason = (
        "counts as unstable in the answer: by step 200 its score was 6.2, no better than the 6"
    )

    assert "VERDICTS    none" in output
    assert f"COMPARED    {reason}" in output
    assert "0000-0, learning_rate 1e-3, score 4 by then" in output
    assert "COMPARED" not in run(app, "explain", compared, "0")
    (trial,) = json.loads(run(app, "explain", compared, "1", "--json"))["trials"]
    assert trial["comparison"].startswith(reason)


def test_a_replay_says_how_many_the_answer_counts_as_unstable_all_the_same(app, compared):
    output = run(app, "replay", compared)

    assert "ENDINGS     2 short and within the edge" in output
    assert "1 trial counts as unstable in the answer all the same" in output
    assert "all the same" not in run(app, "replay", compared, "--trial", "0")


def test_what_has_not_reported_has_nothing_to_draw(app, every_kind):
    output = run(app, "explain", every_kind, "6")

    assert "FAILED at step 0 of 2000" in output
    assert "ValueError: no" in output
    assert "nothing to draw" in output


def test_a_running_trial_is_explained_from_its_journal(app, real, tmp_path):
    store = StudyStore(real)
    reports, facts = store.trial_reports("0001-0"), store.trial_facts("0001-0")
    running = StudyStore(tmp_path / "running")
    running.create(store.study(), "fingerprint")
    record = replace(store.finished_records()[1], outcome=Outcome.RUNNING, stopped_by="")
    running.write_trials([replace(record, stopped_by=StoppedBy.NOBODY)])
    running.write_trial_tables("0001-0", facts, reports[:2], ())
    for report in reports:
        running.append_report("0001-0", report, ())
    running.append_report("0001-0", replace(reports[-1], step=399), store.trial_verdicts("0001-0"))

    output = run(app, "explain", running.path, "1")

    assert "OUTCOME     RUNNING" in output
    assert "prune  R1" in output
    assert "399" in output


def test_piped_output_is_plain_ascii(app, real):
    assert run(app, "explain", real, "1").isascii()


@pytest.mark.parametrize(("no_color", "is_ascii"), [(None, False), ("1", True)])
def test_a_terminal_shows_fine_drawings_unless_it_wants_no_colour(
    app, real, monkeypatch, no_color, is_ascii
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    output = run(app, "explain", real, "1")

    assert output.isascii() == is_ascii


def test_without_a_trial_they_are_listed(app, real):
    result = runner.invoke(app, ["explain", str(real)])

    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "0000-0",
        "0001-0",
        "0001-1",
    ]
    assert "0000-0` explains one." in result.stderr


def test_the_list_as_json_tells_how_every_trial_ended(app, real):
    listed = json.loads(run(app, "explain", real, "--json"))

    assert [trial["trial_id"] for trial in listed] == ["0000-0", "0001-0", "0001-1"]
    first, second, _ = listed
    assert first["params"] == {"learning_rate": 3e-3}
    assert (first["outcome"], first["is_stable"], first["steps"]) == ("completed", True, 400)
    assert (second["outcome"], second["is_unstable"]) == ("diverged", True)
    assert second["rule"].startswith("R1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0001-7", "Of that setting: 0001-0, 0001-1."),
        ("0001_1", "Did you mean 0001-1? The study has 0000-0 to 0001-1."),
        ("99", "there is no trial '99'. The study has 0000-0 to 0001-1."),
    ],
)
def test_an_unknown_trial_is_answered_with_the_known_ones(app, real, name, expected):
    result = runner.invoke(app, ["explain", str(real), name])

    assert isinstance(result.exception, ResultsError)
    assert expected in str(result.exception)
    assert "0000-0" in result.stderr


def test_a_study_without_trials_says_so(app, tmp_path):
    path = synthetic.write(tmp_path / "empty", [])
    for words in (["explain", str(path)], ["explain", str(path), "1"]):
        result = runner.invoke(app, words)

        assert "has no trials yet" in str(result.exception)


# --- replay -----------------------------------------------------------------------------------


def test_by_the_study_s_own_thresholds_nothing_changes(app, real):
    answer = json.loads(run(app, "replay", real, "--json"))

    assert answer["num_flips"] == answer["num_judged_otherwise"] == 0
    assert answer["steps_saved"] == answer["steps_added_at_most"] == 0
    assert all(row["before"] == row["after"] for row in answer["verdict_counts"])


def test_the_counterfactual_of_explain_flips_the_trial_in_replay(app, real):
    explained = json.loads(run(app, "explain", real, "0001-0", "--json"))["trials"][0]
    changes = explained["survival"].split(" would ")[0].split(" and ")
    options = [f"--set={change.replace(' of ', '=').split()[0]}" for change in changes]

    answer = json.loads(run(app, "replay", real, "--trial", "0001-0", *options, "--json"))
    (trial,) = answer["trials"]

    assert trial["is_flipped"]
    assert (trial["before"]["ending"], trial["after"]["ending"]) == ("pruned", "goes_on")
    assert answer["steps_added_at_most"] == 400 - explained["trial"]["steps"]
    text = run(app, "replay", real, "--trial", "0001-0", *options)
    assert "would have gone on after step" in text
    assert "what then is not known" in text


def test_a_stricter_threshold_prunes_and_saves_steps(app, real):
    strict = ["--set", "R1d.excursion=0.01", "--set", "R1b.prune=0", "--set", "R1b.penalise=0"]
    answer = json.loads(run(app, "replay", real, *strict, "--json"))

    assert answer["trials"][0]["after"]["ending"] == "pruned"
    assert answer["trials"][0]["is_flipped"]
    assert answer["steps_saved"] > 0
    assert answer["analyzer"]["thresholds"]["R1b.prune"] == 0
    text = run(app, "replay", real, *strict)
    assert "FLIPS       0000-0  learning_rate=3e-3" in text
    assert "would have been saved" in text


def test_another_judge_says_other_things(app, real):
    answer = json.loads(run(app, "replay", real, "--judge", "chapter", "--json"))

    assert answer["analyzer"]["name"] == "chapter"
    assert all(
        row["rule"].startswith("chapter") or not row["after"] for row in answer["verdict_counts"]
    )


def test_without_a_gate_nobody_is_pruned(app, real):
    answer = json.loads(run(app, "replay", real, "--no-gate", "--json"))

    assert not answer["gate"]
    assert [t["after"]["ending"] for t in answer["trials"]][1:] == ["goes_on", "goes_on"]


def test_the_study_s_own_thresholds_are_kept(app, real, tmp_path):
    study = StudyStore(real).study()
    study["analyzer"] = {"name": "rules", "preset": "strict", "thresholds": {"R1b.prune": 0.45}}
    other = StudyStore(tmp_path / "other")
    other.create(study, "fingerprint")

    answer = json.loads(run(app, "replay", other.path, "--set", "R2.errors=3", "--json"))

    assert answer["analyzer"] == {
        "name": "rules",
        "preset": "strict",
        "thresholds": {"R1b.prune": 0.45, "R2.errors": 3.0},
    }


def test_only_what_is_asked_must_make_sense(app, real, tmp_path):
    """A study of an older version, which took any thresholds, is judged again by them."""
    study = StudyStore(real).study()
    study["analyzer"] = {"name": "rules", "preset": "default", "thresholds": {"R1b.penalise": 0.6}}
    other = StudyStore(tmp_path / "other")
    other.create(study, "fingerprint")

    run(app, "replay", other.path)
    run(app, "replay", other.path, "--set", "R2.errors=3")
    result = runner.invoke(app, ["replay", str(other.path), "--preset", "strict"])

    assert str(result.exception).startswith(
        "--preset strict: R1b.penalise=0.6: must not be above R1b.prune (0.4, preset strict)"
    )


def test_a_version_that_judges_otherwise_says_so(app, every_kind):
    assert "this version of stabsearch judges" in run(app, "replay", every_kind, "--preset=strict")


def test_nothing_is_written_to_the_study(app, real):
    before = files_of(real)
    run(app, "explain", real, "1")
    text = run(app, "replay", real, "--preset", "lenient")

    assert files_of(real) == before
    assert "Nothing was written to the study." in text


def test_new_verdicts_can_be_saved(app, real, tmp_path):
    file = tmp_path / "strict.parquet"
    answer = json.loads(run(app, "replay", real, "--preset=strict", "--output", file, "--json"))
    saved = pd.read_parquet(file)

    assert len(saved) == sum(len(trial["verdicts"]) for trial in answer["trials"])
    assert {"trial_id", "rule", "limit"} <= set(saved.columns)


def test_verdicts_are_not_saved_among_the_study_s(app, real):
    before = files_of(real)
    result = runner.invoke(
        app, ["replay", str(real), "--output", str(real / "verdicts/x.parquet")]
    )

    assert isinstance(result.exception, ResultsError)
    assert files_of(real) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "R1b.prun=1"], "Did you mean R1b.prune? Thresholds of R1b: R1b.prune, R1b.pen"),
        (["--set", "nothing=1"], "Thresholds: R1a.standing_share, R1b.prune"),
        (["--set", "R1b.prune"], "must be NAME=VALUE, such as R1b.prune=0.4."),
        (["--set", "R1b.prune=much"], "must be a finite number. The default is R1b.prune=0."),
        (["--set", "R1b.prune=inf"], "must be a finite number"),
        (
            ["--set", "R1b.prune=-1"],
            "--set R1b.prune=-1: must be at least 0: share of its progress that a trial has lost",
        ),
        (
            ["--set", "R1b.penalise=0.9"],
            "--set R1b.penalise=0.9: must not be above R1b.prune (0.5)",
        ),
        (["--set", "R1b.prune=0.1"], "Use 0.2 or more, or set R1b.penalise to 0.1 or less, too."),
        (
            ["--preset", "strict", "--set", "R1b.penalise=0.45"],
            "--set R1b.penalise=0.45: must not be above R1b.prune (0.4, preset strict)",
        ),
        (["--judge", "chaptr"], "Did you mean chapter? Judges: rules, chapter,"),
        (["--judge", "chapter", "--set", "R1b.prune=1"], "or add --judge rules."),
        (["--judge", "chapter", "--preset", "strict"], "--preset: presets and thresholds are"),
    ],
)
def test_what_cannot_be_asked_is_one_error(app, real, options, expected):
    result = runner.invoke(app, ["replay", str(real), *options])

    assert isinstance(result.exception, SpecError)
    assert expected in str(result.exception)


def test_an_unknown_preset_lists_the_known_ones(app, real):
    result = runner.invoke(app, ["replay", str(real), "--preset", "strictest"])

    assert result.exit_code == 2
    assert "lenient" in result.output


# --- both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "replay"])
def test_help_has_an_example(app, command):
    output = run(app, command, "--help")

    assert f"stabsearch {command} results/digits_lr_clip" in output


@pytest.mark.parametrize("command", [["explain"], ["replay"]])
def test_a_missing_study_is_one_error_for_main_to_print(app, tmp_path, command):
    result = runner.invoke(app, [*command, str(tmp_path / "nowhere")])

    assert isinstance(result.exception, ResultsError)


@pytest.mark.parametrize("words", [["explain", "1"], ["replay", "--judge", "olmo"]])
def test_neither_torch_nor_ray_is_needed(real, words):
    command, *rest = words
    program = f"""
import sys
sys.modules["torch"] = sys.modules["ray"] = None
from stabsearch.cli.main import main
raise SystemExit(main({[command, str(real), *rest]!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
