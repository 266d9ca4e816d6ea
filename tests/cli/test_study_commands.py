"""run, validate, init, schema, as they are typed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from stabsearch.cli.main import main
from stabsearch.errors import ClusterError, EnvironmentProblem, ResultsError
from stabsearch.records import Confirmation, Purpose, Recommendation
from stabsearch.results.store import StudyStore
from stabsearch.spec_file import load_study
from tests import synthetic_study as synthetic

MINIMAL = "name: test\nspace:\n  learning_rate: {log_uniform: [1e-4, 1e-1]}\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh current directory with a small valid study, x.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("x.yaml").write_text(MINIMAL)
    return tmp_path


@pytest.fixture
def module_that_exits(tmp_path_factory, monkeypatch):
    """A script without a guard, on the path of this process and of those it starts."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "script_that_exits.py").write_text("import sys\nsys.exit(5)\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def space(entry: str) -> str:
    return f"name: test\nspace:\n  {entry}\n"


# The "Bad input" line, as far as it is decided before Ray starts: the file, and the
# first line of the message.
BAD_INPUT = {
    "unknown field": (
        MINIMAL + "trainer: {learning_rte: 1}\n",
        "x.yaml: trainer.learning_rte: unknown field. Did you mean learning_rate?",
    ),
    "lr zero": (
        MINIMAL + "trainer: {learning_rate: 0}\n",
        "x.yaml: trainer.learning_rate: 0 — must be greater than 0. Use a value such as 0.001, "
        "the default.",
    ),
    "lr range below zero": (
        space("learning_rate: {uniform: [-0.1, 0.1]}"),
        "x.yaml: space.learning_rate: uniform: [-0.1, 0.1] — -0.1 must be greater than 0. Keep "
        "every value of learning_rate within that.",
    ),
    "low above high": (
        space("learning_rate: {log_uniform: [1e-1, 1e-4]}"),
        "x.yaml: space.learning_rate: log_uniform: [0.1, 0.0001] — the low end must be less than "
        "the high end. Swap them: [0.0001, 0.1].",
    ),
    "log range with zero": (
        space("learning_rate: {log_uniform: [0, 0.1]}"),
        "x.yaml: space.learning_rate: log_uniform: [0, 0.1] — the low end of a log range must be "
        "greater than 0. Use uniform, or a low end such as 1e-6.",
    ),
    "unknown choice": (
        space("prediction_type: {choice: [epsilon, v_predicton]}"),
        "x.yaml: space.prediction_type: choice: [epsilon, v_predicton] — v_predicton must be one "
        "of epsilon, sample, v_prediction, flow. Did you mean v_prediction?",
    ),
    "empty space": (
        "name: test\nspace: {}\n",
        "x.yaml: space: {} — nothing is searched: at least one entry must be a domain. Add for "
        "example learning_rate: {log_uniform: [1e-4, 0.1]}.",
    ),
    "space without entries": (
        "name: test\nspace:\n",
        "x.yaml: space: null — must be a section: fields below it, each as 'name: value'. Indent "
        "its fields below it, or leave it out.",
    ),
    "seeds zero": (
        MINIMAL + "seeds: 0\n",
        "x.yaml: seeds: 0 — must be at least 1. Use a value such as 1, the default.",
    ),
    "not yaml": (
        "name: [test\n",
        "x.yaml:2: is not YAML: while parsing a flow sequence, expected ',' or ']', but got "
        "'<stream end>'. Check the indentation, colons and brackets there.",
    ),
    "reference without module": (
        MINIMAL + "trainer: {model: {name: 'my_models_of_nobody:unet'}}\n",
        "x.yaml: trainer.model.name: my_models_of_nobody:unet — no module named "
        "my_models_of_nobody. Correct the name, install its package, or start stabsearch in the "
        "folder that holds my_models_of_nobody.py (the current directory, {here}, is searched).",
    ),
    "reference without function": (
        MINIMAL + "trainer: {data: {name: 'json:load_digits'}}\n",
        "x.yaml: trainer.data.name: json:load_digits — module json has no attribute load_digits. "
        f"Define it there ({json.__file__}), or correct the name.",
    ),
    "cuda without gpus": (
        MINIMAL + "trainer: {device: cuda}\n",
        "x.yaml: trainer.device: cuda — a trial on cuda needs a share of a GPU, but "
        "resources.gpus is 0. Set resources.gpus: 1 (or a fraction), or device: auto.",
    ),
    "home of nobody": (
        MINIMAL + "storage: ~nosuchuser/x\n",
        "x.yaml: storage: ~nosuchuser/x — there is no such home folder on this machine. Use ~/ "
        "for your own, or the folder's full path.",
    ),
    "reference that exits": (
        MINIMAL + "trainer: {model: {name: 'script_that_exits:unet'}}\n",
        "x.yaml: trainer.model.name: script_that_exits:unet — importing script_that_exits "
        "ended the program (sys.exit: 5). Put what it does as a script below `if __name__ == "
        '"__main__":`.',
    ),
    "measure that is searched": (
        space("num_timestep_bins: {int: [5, 20]}"),
        "x.yaml: space.num_timestep_bins: int: [5, 20] — decides how every score is measured, so "
        "it must be the same for all trials of a study. Write one value as "
        "trainer.num_timestep_bins; to compare several, run a study for each (extends: derives "
        "one file from another).",
    ),
    "name that is no folder name": (
        MINIMAL.replace("test", "../up"),
        "x.yaml: name: ../up — must be usable as a folder name: letters, digits, . _ - (at most "
        "100, the first not . or -). Use _up.",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["validate"]], ids=" ".join)
@pytest.mark.usefixtures("module_that_exits")
def test_bad_input_is_one_message_exit_code_2_and_no_folder(here, capsys, command, case):
    text, message = BAD_INPUT[case]
    Path("x.yaml").write_text(text)

    code = main([*command, "x.yaml"])

    said = capsys.readouterr()
    assert said.err == f"error: {message}\n".replace("{here}", str(here))
    assert said.out == ""
    assert code == 2
    assert os.listdir() == ["x.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.yaml"], "nope.yaml: there is no such file. Study files in .: x.yaml."),
        (["."], ".: is a folder. Name a study file in it."),
        (
            ["x.yaml", "--trials", "0"],
            "--trials: trials: 0 — must be at least 1. Use a value such as 32, the default.",
        ),
        (
            ["x.yaml", "--seeds", "0"],
            "--seeds: seeds: 0 — must be at least 1. Use a value such as 1, the default.",
        ),
        (
            ["x.yaml", "--workers", "-1"],
            "--workers: resources.workers: -1 — must be at least 1. Use 1 or more, or null, the "
            "default.",
        ),
        (
            ["x.yaml", "--storage", "s3://b"],
            "--storage: storage: s3://b — must be a folder on this machine or a shared file "
            "system. Write results to a folder, and copy it to the bucket afterwards.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_of_run_are_one_message(capsys, arguments, message):
    assert main(["run", *arguments]) == 2

    assert capsys.readouterr().err == f"error: {message}\n"
    assert os.listdir() == ["x.yaml"]


@pytest.mark.parametrize(
    "case",
    [
        *("unknown field", "log range with zero", "not yaml", "reference without module"),
        *("home of nobody", "reference that exits"),
    ],
)
@pytest.mark.usefixtures("module_that_exits")
def test_bad_input_in_a_process_of_its_own_shows_no_traceback(here, case):
    text, message = BAD_INPUT[case]
    Path("x.yaml").write_text(text)

    done = stabsearch("run", "x.yaml")

    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n".replace("{here}", str(here))
    assert done.stdout == ""
    assert os.listdir() == ["x.yaml"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "{name: array, path: nowhere.npy}",
            "x.yaml: trainer.data: nowhere.npy does not exist",
        ),
        ("{name: 'my_data:load'}", "x.yaml: trainer.data: loading the data raised KeyError"),
        ("{name: 'my_data:leave'}", "x.yaml: trainer.data: loading the data raised SystemExit"),
    ],
)
def test_data_that_cannot_be_loaded_is_one_message_before_ray_starts(
    here, capsys, monkeypatch, data, message
):
    monkeypatch.syspath_prepend(str(here))
    Path("my_data.py").write_text(
        "def load():\n    return {}['nothing']\n\n\ndef leave():\n    raise SystemExit(3)\n"
    )
    Path("x.yaml").write_text(MINIMAL + f"trainer: {{data: {data}}}\n")

    assert main(["run", "x.yaml"]) == 2

    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert "Traceback" not in error
    assert not Path("results").exists()


MY_NETS = """
import math
from torch import nn


class Net(nn.Module):
    def __init__(self, sample_shape, channels=4):
        super().__init__()
        print("a net is built")
        self.layer = nn.Linear(math.prod(sample_shape), math.prod(sample_shape))

    def forward(self, x_t, timesteps):
        return self.layer(x_t.flatten(1)).view_as(x_t)


class Flat(Net):
    def forward(self, x_t, timesteps):
        return self.layer(x_t.flatten(1))
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{name: unet, num_resolutions: 6}", "trainer.model.num_resolutions: 6 needs a height"),
        (
            "{name: 'nets_of_mine:Net', n_channels: 3}",
            "trainer.model.n_channels: unknown field of nets_of_mine:Net. Did you mean channels?",
        ),
        (
            "{name: 'nets_of_mine:Flat'}",
            "trainer.model: nets_of_mine:Flat — forward returned shape [2, 64] for x_t of shape",
        ),
    ],
    ids=["built in", "field", "shape"],
)
def test_a_model_that_is_no_denoiser_of_the_data_is_one_message_before_ray_starts(
    here, capsys, monkeypatch, model, message
):
    monkeypatch.syspath_prepend(str(here))
    Path("nets_of_mine.py").write_text(MY_NETS)
    Path("x.yaml").write_text(MINIMAL + f"trainer: {{model: {model}}}\n")

    assert main(["run", "x.yaml"]) == 2

    error = capsys.readouterr().err
    assert error.startswith(f"error: x.yaml: {message}")
    assert len(error.splitlines()) == 1
    assert not Path("results").exists()


class TestBadInputThatTheFileAloneDoesNotShow:
    """The rest of the issue's line: what this machine and the results folder have to say."""

    def refused(self, *arguments: str) -> str:
        done = stabsearch("run", "x.yaml", *arguments)

        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    @pytest.mark.ray
    def test_gpus_where_there_are_none(self):
        Path("x.yaml").write_text(MINIMAL + "resources: {gpus: 512}\n")

        assert self.refused().startswith("error: x.yaml: resources.gpus: 512 ")
        assert os.listdir() == ["x.yaml"]

    def test_storage_that_cannot_be_written(self):
        Path("file").touch()

        message = self.refused("--storage", "file/results")

        assert message.startswith("error: x.yaml: ")
        assert "file/results/test" in message
        assert "storage" in message
        assert sorted(os.listdir()) == ["file", "x.yaml"]

    def test_name_of_a_study_with_another_spec(self, here):
        spec = load_study("x.yaml")
        StudyStore(spec.path).create(spec.model_dump(mode="json"), spec.fingerprint())
        before = sorted(path for path in here.rglob("*"))
        Path("x.yaml").write_text(MINIMAL + "trainer: {batch_size: 32}\n")

        message = self.refused()

        assert message.startswith("error: x.yaml: ")
        assert "another specification" in message
        assert "batch_size" in message
        assert sorted(path for path in here.rglob("*")) == before


def stabsearch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stabsearch", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


class TestValidate:
    def test_says_what_each_file_would_search(self, capsys):
        Path("y.yaml").write_text("extends: x.yaml\nname: y\ntrials: 4\nseeds: 3\n")

        assert main(["validate", "x.yaml", "y.yaml"]) == 0

        assert capsys.readouterr().out.splitlines() == [
            "x.yaml: valid. 32 settings of learning_rate; at most 64,000 training steps.",
            "y.yaml: valid. 4 settings x 3 seeds of learning_rate; at most 24,000 training steps.",
        ]

    def test_says_what_the_confirmation_may_take(self, capsys):
        """Three rounds: two more seeds of the setting and three at twice its rate."""
        Path("y.yaml").write_text("extends: x.yaml\nname: y\nconfirm: {seeds: 3}\n")

        assert main(["validate", "y.yaml"]) == 0

        said = "at most 64,000 training steps, and 30,000 to confirm the answer."
        assert capsys.readouterr().out.strip().endswith(said)

    def test_goes_on_after_a_bad_file(self, capsys):
        Path("bad.yaml").write_text("name: 3\n")

        assert main(["validate", "bad.yaml", "nope.yaml", "x.yaml"]) == 2

        said = capsys.readouterr()
        assert said.out.startswith("x.yaml: valid.")
        assert [line.split(": ")[1] for line in said.err.splitlines()] == [
            "bad.yaml",
            "bad.yaml",
            "nope.yaml",
        ]


class TestDryRun:
    def test_prints_the_resolved_study_and_leaves_nothing(self, capsys, here):
        arguments = ["--trials", "5", "--storage", "out", "--workers", "3"]
        assert main(["run", "x.yaml", "--dry-run", *arguments]) == 0

        text = capsys.readouterr().out
        Path("again.yaml").write_text(text)
        spec = load_study("again.yaml")
        assert (spec.name, spec.trials, spec.storage) == ("test", 5, "out")
        assert spec.resources.workers == 3
        assert "# 5 settings of learning_rate; at most 10,000 training steps." in text
        assert f"# Results would go to {here}/out/test" in text
        assert sorted(os.listdir()) == ["again.yaml", "x.yaml"]

    def test_shows_three_settings_of_the_space_and_the_same_every_time(self, capsys):
        outputs = []
        for _ in range(2):
            assert main(["run", "x.yaml", "--dry-run", "--json"]) == 0
            outputs.append(capsys.readouterr().out)

        assert outputs[0] == outputs[1]
        fields = json.loads(outputs[0])
        rates = [setting["learning_rate"] for setting in fields["settings"]]
        assert len(set(rates)) == 3
        assert all(1e-4 <= rate <= 1e-1 for rate in rates)
        assert fields["step_budget"] == 64_000

    def test_settings_follow_the_searcher_s_seed(self, capsys):
        settings = []
        for seed in (0, 1):
            Path("x.yaml").write_text(MINIMAL + f"searcher: {{seed: {seed}}}\n")
            main(["run", "x.yaml", "--dry-run", "--json"])
            settings.append(json.loads(capsys.readouterr().out)["settings"])

        assert settings[0] != settings[1]


class TestInit:
    def test_writes_a_valid_study_named_after_the_file(self, capsys):
        assert main(["init", "edge of mine.yaml"]) == 0

        assert load_study("edge of mine.yaml").name == "edge_of_mine"
        assert "stabsearch run 'edge of mine.yaml' --dry-run" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["2024", "null", "1e5"])
    def test_a_name_that_yaml_reads_as_something_else_is_quoted(self, name):
        assert main(["init", f"{name}.yaml"]) == 0

        assert load_study(f"{name}.yaml").name == name

    def test_default_name_is_study_yaml(self):
        assert main(["init"]) == 0

        assert load_study("study.yaml").name == "study"

    def test_does_not_overwrite_unless_forced(self, capsys):
        assert main(["init", "x.yaml"]) == 2

        assert Path("x.yaml").read_text() == MINIMAL
        assert "x.yaml: is there already" in capsys.readouterr().err
        assert main(["init", "x.yaml", "--force"]) == 0
        assert Path("x.yaml").read_text() != MINIMAL

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            (".", ".: is a folder. Name the file to write, such as ./study.yaml."),
            ("no/such/x.yaml", "no/such/x.yaml: cannot be written: No such file or directory."),
        ],
    )
    def test_says_why_it_cannot_write(self, capsys, file, message):
        assert main(["init", file]) == 2

        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_schema_is_json_that_knows_the_space(capsys):
    assert main(["schema"]) == 0

    schema = json.loads(capsys.readouterr().out)
    assert "learning_rate" in schema["properties"]["space"]["properties"]


class TestRun:
    """What surrounds the study; the study itself is replaced."""

    FOUND = Recommendation(
        params={"learning_rate": 0.01}, trial_id="0000-0", num_stable_seeds=1, num_seeds=1, score=1
    )
    NOTHING = Recommendation(params=None, trial_id=None)
    HELD = Confirmation(
        num_seeds=2,
        num_stable=2,
        stress_octaves=1.0,
        stress_learning_rate=0.02,
        num_stress_seeds=2,
        num_stress_stable=2,
        num_stress_poor=0,
        num_asked=2,
        p_fail_bound=0.1,
        moved_from=(),
    )

    @pytest.fixture
    def run(self, monkeypatch, here):
        study = pytest.importorskip("stabsearch.search.study")
        figures = pytest.importorskip("stabsearch.report.figures")
        calls = SimpleNamespace(studies=[], maps=[])

        def draw(results, recommendation, folder):
            calls.maps.append(folder)
            return [folder / "map.png"]

        def run_with(
            recommendation, *arguments, interrupted=False, raises=None, write_map=draw, records=()
        ):
            def run_study(spec, *, address, observer):
                calls.studies.append((spec, address))
                sys.stdout.write("a user's own code prints this")
                if raises is not None:
                    raise raises
                spec.path.mkdir(parents=True)
                observer.on_study_end(recommendation, interrupted=interrupted)
                return study.StudyResult(
                    results=SimpleNamespace(trials=None, records=lambda: list(records)),
                    recommendation=recommendation,
                    interrupted=interrupted,
                    path=spec.path,
                )

            monkeypatch.setattr(study, "run_study", run_study)
            monkeypatch.setattr(figures, "write_map", write_map)
            arguments = ["run", "x.yaml", *arguments]
            monkeypatch.setattr(sys, "argv", ["stabsearch", *arguments])
            return main(arguments), calls

        return run_with

    @pytest.fixture
    def dashboard(self, tmp_path_factory, monkeypatch):
        """Where optuna-dashboard is looked for: an environment that is not on the PATH."""
        folder = tmp_path_factory.mktemp("environment")
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        return folder / "optuna-dashboard"

    def test_answer_files_and_next_commands_are_said(self, run, capsys, here, dashboard):
        code, calls = run(self.FOUND)
        python = sys.executable

        text = capsys.readouterr().out
        assert code == 0
        assert "RECOMMENDED" in text
        assert calls.maps == [here / "results/test/figures"]
        assert [line.split() for line in text[text.index("\nResults") :].splitlines() if line] == [
            ["Results", "results/test"],
            ["Map", "results/test/figures/map.png"],
            ["Next"],
            ["stabsearch", "recommend", "results/test"],
            ["Every", "trial", "in", "a", "browser", "(optional)"],
            [python, "-m", "pip", "install", "optuna-dashboard"],
            [str(dashboard), "results/test/optuna.journal"],
        ]

    def test_a_dashboard_that_is_installed_need_not_be(self, run, capsys, dashboard):
        dashboard.touch()
        run(self.FOUND)

        text = capsys.readouterr().out
        assert "pip install" not in text
        assert f"  {dashboard} results/test/optuna.journal" in text

    def test_without_a_map_the_command_that_draws_it_is_said(self, run, capsys):
        _, calls = run(self.FOUND, "--no-plot")

        assert calls.maps == []
        assert "stabsearch plot results/test map" in capsys.readouterr().out

    def test_no_stable_setting_is_exit_code_3(self, run, capsys):
        code, _ = run(self.NOTHING)

        assert code == 3
        assert "no setting was stable" in capsys.readouterr().out

    @pytest.mark.parametrize("is_precise", [None, True])
    def test_an_answer_as_precise_as_asked_is_exit_code_0(self, run, is_precise):
        code, _ = run(replace(self.FOUND, is_precise=is_precise))

        assert code == 0

    @pytest.mark.parametrize("options", [[], ["--json"], ["--no-plot"]])
    def test_an_answer_less_precise_than_asked_is_exit_code_4(self, run, options):
        code, _ = run(replace(self.FOUND, is_precise=False), *options)

        assert code == 4

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, 0),
            ({"num_stable": 1}, 4),
            ({"num_stress_stable": 1}, 4),
        ],
        ids=["held", "a seed failed", "a stress trial failed"],
    )
    def test_a_setting_that_did_not_hold_is_exit_code_4(self, run, changes, expected):
        code, _ = run(replace(self.FOUND, confirmation=replace(self.HELD, **changes)))

        assert code == expected

    def test_nothing_stable_is_exit_code_3_however_precise(self, run):
        code, _ = run(replace(self.NOTHING, is_precise=False))

        assert code == 3

    def test_an_interrupted_study_is_exit_code_130_whatever_its_answer(self, run):
        code, _ = run(replace(self.FOUND, is_precise=False), interrupted=True)

        assert code == 130

    def test_interrupted_study_says_how_to_go_on(self, run, capsys):
        code, calls = run(self.FOUND, "--trials", "4", interrupted=True)

        said = capsys.readouterr()
        assert code == 130
        assert "So far:" in said.out
        assert said.err == (
            "interrupted: finished trials are in results/test. To go on, run the same command:\n"
            "  stabsearch run x.yaml --trials 4\n"
        )
        assert calls.maps == []

    def test_interrupt_before_the_study_has_a_folder_promises_no_trials(self, run, capsys):
        code, _ = run(self.NOTHING, raises=KeyboardInterrupt())

        assert code == 130
        assert capsys.readouterr().err == (
            "interrupted: before the first trial began; nothing was written. To begin, run the "
            "same command:\n  stabsearch run x.yaml\n"
        )

    def test_interrupt_while_a_study_resumes_says_where_its_trials_are(self, run, capsys):
        Path("results/test").mkdir(parents=True)
        run(self.NOTHING, raises=KeyboardInterrupt())

        assert "finished trials are in results/test. To go on" in capsys.readouterr().err

    @pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
    def test_sigterm_interrupts_as_ctrl_c_does(self, run, capsys, monkeypatch, on_ctrl_c):
        """A shell's background job ignores Ctrl-C."""
        study = pytest.importorskip("stabsearch.search.study")
        run(self.NOTHING)  # its files, and its argv
        monkeypatch.setattr(
            study, "run_study", lambda *_, **__: signal.raise_signal(signal.SIGTERM)
        )
        before = signal.signal(signal.SIGINT, on_ctrl_c), signal.getsignal(signal.SIGTERM)
        try:
            code = main(["run", "x.yaml"])
            after = signal.getsignal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGINT, before[0])

        assert code == 130
        assert "To go on, run the same command:\n  stabsearch run x.yaml\n" in (
            capsys.readouterr().err
        )
        assert after == before[1]

    @pytest.mark.parametrize("kind", [EnvironmentProblem, ResultsError])
    def test_what_the_file_asks_for_in_vain_names_the_file(self, run, capsys, kind):
        code, _ = run(self.NOTHING, raises=kind("resources.gpus: none here."))

        assert code == 2
        assert capsys.readouterr().err == "error: x.yaml: resources.gpus: none here.\n"

    def test_a_cluster_that_is_not_there_is_not_the_file_s_fault(self, run, capsys):
        run(self.NOTHING, raises=ClusterError("Nothing answers."))

        assert capsys.readouterr().err == "error: Nothing answers.\n"

    def test_a_caution_is_a_note(self, run, capsys):
        Path("x.yaml").write_text(
            space("noise_schedule.beta_schedule: {choice: [linear, squaredcos_cap_v2]}")
        )
        code, _ = run(self.FOUND)

        said = capsys.readouterr()
        assert code == 0
        assert said.err.startswith("note: x.yaml: space.noise_schedule.beta_schedule: a score")

    def test_json_is_all_that_stdout_holds(self, run, capsys, here):
        code, _ = run(self.FOUND, "--json")

        said = capsys.readouterr()
        fields = json.loads(said.out)
        assert code == 0
        assert fields["params"] == {"learning_rate": 0.01}
        assert fields["path"] == str(here / "results/test")
        assert fields["interrupted"] is False
        assert "finished after" in said.err
        assert "a user's own code prints this" in said.err

    @pytest.mark.parametrize("options", [["--dry-run"], []])
    def test_what_a_module_prints_when_it_is_imported_is_not_in_the_json(
        self, run, capsys, monkeypatch, here, options
    ):
        monkeypatch.syspath_prepend(str(here))
        monkeypatch.delitem(sys.modules, "prints_of_mine", raising=False)
        Path("prints_of_mine.py").write_text("print('hello')\ndef net(shape): ...\n")
        Path("x.yaml").write_text(MINIMAL + "trainer: {model: {name: 'prints_of_mine:net'}}\n")
        run(self.FOUND, "--json", *options)

        said = capsys.readouterr()
        assert isinstance(json.loads(said.out), dict)
        assert "hello" in said.err

    @pytest.mark.parametrize(
        ("arguments", "tried", "expected"),
        [
            ([], 8, "stabsearch run x.yaml --trials 12"),
            (["--no-plot", "--trials", "5"], 5, "stabsearch run x.yaml --no-plot --trials 8"),
            (["--trials=3", "--seeds", "1"], 3, "stabsearch run x.yaml --seeds 1 --trials 5"),
        ],
    )
    def test_where_the_trials_did_not_suffice_the_command_for_more_is_said(
        self, run, capsys, arguments, tried, expected
    ):
        Path("x.yaml").write_text(MINIMAL + "trials: 8\n")
        records = [
            synthetic.record(n, params={"learning_rate": 0.001 * (n + 1)}) for n in range(tried)
        ]
        run(replace(self.FOUND, is_precise=False), *arguments, records=records)

        out = capsys.readouterr().out
        assert out[out.index("\nNext") :].splitlines()[2].strip() == expected

    @pytest.mark.parametrize(
        ("changes", "purpose"),
        [
            ({"is_precise": True}, Purpose.PROBE),
            ({"is_precise": None}, Purpose.SEARCH),
            ({"is_precise": False}, Purpose.STRESS),
            ({"is_precise": False, "params": None}, Purpose.PROBE),
        ],
        ids=["precise", "not asked", "trials left", "nothing stable"],
    )
    def test_more_trials_are_proposed_for_nothing_else(self, run, capsys, changes, purpose):
        records = [synthetic.record(setting, purpose=purpose) for setting in range(40)]
        run(replace(self.FOUND, **changes), records=records)

        assert "--trials" not in capsys.readouterr().out

    def test_more_trials_are_not_proposed_to_a_search_that_has_nothing_left_to_ask(
        self, run, capsys
    ):
        searched = "searcher: {name: boundary}\nstop_when: edge within 0.5 octave\ntrials: 3\n"
        Path("x.yaml").write_text(MINIMAL + searched)
        rates = {0.002: synthetic.record, 0.02: synthetic.record, 0.09: synthetic.diverged}
        records = [
            make(n, params={"learning_rate": rate}, max_train_steps=2000, steps=2000)
            for n, (rate, make) in enumerate(rates.items())
        ]
        run(replace(self.FOUND, is_precise=False), records=records)

        assert "--trials" not in capsys.readouterr().out

    def test_flags_reach_the_study(self, run):
        arguments = ("--storage", "out", "--trials", "7", "--seeds", "3", "--workers", "2")
        arguments += ("--address", "auto")
        _, calls = run(self.FOUND, *arguments)

        ((spec, address),) = calls.studies
        assert (spec.storage, spec.trials, spec.seeds) == ("out", 7, 3)
        assert spec.resources.workers == 2
        assert address == "auto"

    def test_map_that_cannot_be_drawn_does_not_cost_the_answer(self, run, capsys):
        code, _ = run(self.FOUND, write_map=lambda *_: 1 / 0)

        said = capsys.readouterr()
        assert code == 0
        assert "RECOMMENDED" in said.out
        assert "note: the map was not drawn: division by zero" in said.err
        assert "stabsearch plot results/test map" in said.out


def interrupted(here, sent):
    """The command that goes on with a study that a signal has stopped after its first trial."""
    Path("x.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "test",
                "trials": 6,
                "space": {"learning_rate": {"log_uniform": [1e-3, 1e-2]}},
                "trainer": {
                    "max_train_steps": 400,
                    "report_every": 20,
                    "eval_every": 200,
                    "eval_samples": 100,
                    "model": {"width": 16},
                },
                "resources": {"workers": 1},
            }
        )
    )
    command = [sys.executable, "-m", "stabsearch", "run", "x.yaml", "--no-plot"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("[1/6]"):
            first.send_signal(sent)
            break
    out, err = first.communicate(timeout=120)

    assert first.returncode == 130, out + err
    *_, said, again = err.splitlines()
    assert said.endswith("To go on, run the same command:")
    assert again.endswith("python -m stabsearch run x.yaml --no-plot")
    assert "Traceback" not in out + err
    assert "SIGTERM" not in out + err  # Ray's own words
    assert (here / "results/test/trials.parquet").exists()
    return again


@pytest.mark.ray
def test_sigterm_interrupts_as_ctrl_c_does(here):
    interrupted(here, signal.SIGTERM)


@pytest.mark.ray
def test_interrupted_search_goes_on_with_the_same_command(here):
    again = interrupted(here, signal.SIGINT)

    second = subprocess.run(
        [*shlex.split(again), "--json"], capture_output=True, text=True, timeout=240, check=False
    )

    assert second.returncode in (0, 3, 4), second.stderr
    assert json.loads(second.stdout)["num_trials"] == 6
    progress = second.stderr.splitlines()
    assert "already finished" in progress[0]
    assert sum(line.startswith("[6/6]") for line in progress) == 1
    assert "Traceback" not in second.stderr
